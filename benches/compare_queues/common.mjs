// What the JavaScript peers share: the work, the table of its results, and processes that drain a queue.
//
// A peer's script is run with the folder that it was installed in, the database's URL, the number of jobs and its settings
// as JSON. It puts all jobs in, lets its worker processes begin, waits until each job has its result and the queue is
// empty, and prints one JSON object.
import { fork } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { argv, exit } from 'node:process'

const [, script, peers, url, jobsText, settingsText, role] = argv
export const jobs = Number(jobsText)
export const settings = JSON.parse(settingsText)
export { url }

/** Imports a package from the folder of the peers. */
export const peer = createRequire(join(peers, 'package.json'))

const { Pool } = peer('pg')

export function pool(max) {
  return new Pool({ connectionString: url, max })
}

/** About as long as the prompts of farm-bench. */
export function prompt(index) {
  const number = String(index).padStart(8, '0')
  return `a wide photograph of harbour crane number ${number} in morning light, sharp, highly detailed`
}

const NEGATIVE = 'blurry, low resolution, jpeg artefacts, text, signature, watermark, frame, cropped, ' +
  'oversaturated, deformed hands'

/** What a job leaves: as much as a result of Sanafarm's. */
export function result(index, prompt) {
  const recipe = JSON.stringify({
    program: 'synthetic engine', version: '0.1.0', model: 'synthetic-00000000000000000000000000000000',
    weights_sha256: '5a17e71c'.repeat(8), prompt,
    negative_prompt: NEGATIVE, seed: index + 1, width: 1024, height: 1024, compute_width: 1024,
    compute_height: 1024, steps: 20, guidance: 4.5, scheduler: 'dpm-solver++', dtype: 'f32',
    bin: 'auto', decode: 'exact'
  })
  const sha256 = createHash('sha256').update(recipe).digest('hex')
  return [index, `${String(index).padStart(8, '0')}-${index + 1}.png`, 1600000, sha256, recipe, 1.0]
}

const TABLE = `CREATE TABLE results (
  job bigint PRIMARY KEY, object text NOT NULL, bytes bigint NOT NULL, sha256 text NOT NULL, recipe text NOT NULL,
  seconds double precision NOT NULL, finished_at timestamptz NOT NULL DEFAULT now())`

/** Stores one result. */
export const INSERT_ONE = {
  name: 'insert-one',
  text: 'INSERT INTO results (job, object, bytes, sha256, recipe, seconds) VALUES ($1, $2, $3, $4, $5, $6)'
}
/** Stores many results: an array for each column. */
export const INSERT_MANY = `INSERT INTO results (job, object, bytes, sha256, recipe, seconds)
  SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::float8[])`

/** Columns of rows. */
export function columns(rows) {
  return rows[0].map((_, column) => rows.map((row) => row[column]))
}

function versionOf(name) {
  return JSON.parse(readFileSync(join(peers, 'node_modules', name, 'package.json'), 'utf8')).version
}

function seconds(since) {
  return (performance.now() - since) / 1000
}

/** Starts the processes that drain; each is ready to begin when this is done. */
async function start(count) {
  const children = Array.from({ length: count }, () => fork(script, [peers, url, jobsText, settingsText, 'worker']))
  const done = new Map()
  for (const child of children) {
    child.on('exit', (code) => {
      if (code !== 0) {
        console.error(`a worker process ended with ${code}`)
        exit(1)
      }
    })
    await new Promise((ready) => child.once('message', ready))
    child.on('message', (count) => done.set(child, count))
  }
  const total = () => [...done.values()].reduce((sum, count) => sum + count, 0)
  return { children, total }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/** Runs this process as what it is: the one that measures, or one that drains. */
export async function main({ name, enqueue, isEmpty, work }) {
  if (role === 'worker') {
    let done = 0
    const finished = (count) => { done += count }
    process.once('message', async () => {
      const stop = await work(finished)
      const timer = setInterval(() => process.send(done), 10)
      process.once('message', async () => {
        clearInterval(timer)
        await stop()
        exit(0)
      })
    })
    process.send('ready')
    return
  }
  const database = pool(2)
  await database.query(TABLE)
  const close = await enqueue.prepare(database)
  const began = performance.now()
  await enqueue.all()
  const enqueueSeconds = seconds(began)
  await close()
  const { children, total } = await start(settings.processes)
  const drained = performance.now()
  children.forEach((child) => child.send('go'))
  while (total() < jobs) await pause(5)
  while (!(await isEmpty(database))) await pause(5)
  const drainSeconds = seconds(drained)
  const { rows: [{ count }] } = await database.query('SELECT count(*)::int AS count FROM results')
  if (count !== jobs) throw new Error(`${count} results for ${jobs} jobs`)
  children.forEach((child) => child.send('stop'))
  await Promise.all(children.map((child) => new Promise((ended) => child.once('exit', ended))))
  await database.end()
  console.log(JSON.stringify({
    version: `${versionOf(name)}, node ${process.versions.node}`,
    enqueue_seconds: enqueueSeconds,
    drain_seconds: drainSeconds
  }))
}
