// graphile-worker with the batching that its documentation recommends for throughput (worker.graphile.org/docs/performance).
import { INSERT_ONE, jobs, main, peer, prompt, result, settings, url } from './common.mjs'

const { Logger, makeWorkerUtils, run } = peer('graphile-worker')
const logger = new Logger(() => (level, message) => {
  if (level === 'error' || level === 'warning') console.error(message)
})

const enqueue = {
  async prepare() {
    this.utils = await makeWorkerUtils({ connectionString: url, logger })
    await this.utils.migrate()
    return () => this.utils.release()
  },
  async all() {
    for (let first = 0; first < jobs; first += settings.enqueue_batch) {
      const count = Math.min(settings.enqueue_batch, jobs - first)
      const specs = Array.from({ length: count }, (_, n) => {
        const index = first + n
        return { identifier: 'render', payload: { index, prompt: prompt(index) } }
      })
      await this.utils.addJobs(specs)
    }
  }
}

async function isEmpty(database) {
  const { rows } = await database.query('SELECT NOT EXISTS (SELECT FROM graphile_worker.jobs) AS empty')
  return rows[0].empty
}

async function work(finished) {
  const render = async ({ index, prompt }, helpers) => {
    const values = result(index, prompt)
    await helpers.withPgClient((client) => client.query({ ...INSERT_ONE, values }))
    finished(1)
  }
  const runner = await run({
    preset: {
      worker: {
        connectionString: url,
        concurrentJobs: settings.concurrent_jobs,
        maxPoolSize: settings.concurrent_jobs + 2,
        localQueue: { size: settings.local_queue },
        completeJobBatchDelay: settings.complete_batch_delay,
        failJobBatchDelay: settings.complete_batch_delay,
        logger
      }
    },
    noHandleSignals: true,
    taskList: { render }
  })
  return () => runner.stop()
}

await main({ name: 'graphile-worker', enqueue, isEmpty, work })
