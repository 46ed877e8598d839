// pg-boss with jobs inserted in bulk and fetched in batches, again at once while they are full (pgboss.io/api/workers). The
// handler stores the results of a batch in the transaction that completes its jobs.
import { INSERT_MANY, columns, jobs, main, peer, prompt, result, settings, url } from './common.mjs'

const { PgBoss } = peer('pg-boss')
const QUEUE = 'render'

async function started(options) {
  const boss = new PgBoss({ connectionString: url, ...options })
  boss.on('error', console.error)
  await boss.start()
  return boss
}

const enqueue = {
  async prepare() {
    this.boss = await started({})
    await this.boss.createQueue(QUEUE)
    return () => this.boss.stop()
  },
  async all() {
    for (let first = 0; first < jobs; first += settings.enqueue_batch) {
      const count = Math.min(settings.enqueue_batch, jobs - first)
      const batch = Array.from({ length: count }, (_, n) => ({ data: { index: first + n, prompt: prompt(first + n) } }))
      await this.boss.insert(QUEUE, batch)
    }
  }
}

async function isEmpty(database) {
  const open = "SELECT NOT EXISTS (SELECT FROM pgboss.job WHERE state < 'completed') AS empty"
  return (await database.query(open)).rows[0].empty
}

async function work(finished) {
  const boss = await started({ max: settings.concurrency + 4 })
  const options = {
    batchSize: settings.batch_size,
    localConcurrency: settings.concurrency,
    burstWhenBatchFull: true,
    pollingIntervalSeconds: 0.5,
    transactional: true
  }
  await boss.work(QUEUE, options, async (batch, transaction) => {
    const rows = batch.map(({ data }) => result(data.index, data.prompt))
    await transaction.executeSql(INSERT_MANY, columns(rows))
    finished(batch.length)
  })
  return () => boss.stop()
}

await main({ name: 'pg-boss', enqueue, isEmpty, work })
