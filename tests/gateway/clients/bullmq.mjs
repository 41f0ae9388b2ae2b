import { FlowProducer, Queue, QueueEvents, Worker } from "bullmq";
import { step, url } from "./steps.mjs";

const connection = { url };
const broken = [];
const watched = (item) => item.on("error", (error) => broken.push(error.message)) && item;
const queue = watched(new Queue("jobs", { connection }));
const events = watched(new QueueEvents("jobs", { connection }));
await events.waitUntilReady();
const tries = {};
const worker = watched(new Worker("jobs", async (job) => {
  tries[job.name] = (tries[job.name] ?? 0) + 1;
  if (job.name === "fails" || (job.name === "retried" && job.attemptsMade < 2)) throw new Error("no luck");
  if (job.name === "parent") return Object.values(await job.getChildrenValues()).sort((a, b) => a - b);
  await job.updateProgress(50);
  await job.log("half");
  return job.data.x * 2;
}, { connection, metrics: { maxDataPoints: 60 } }));
const result = (job) => job.waitUntilFinished(events, 20000);

await step("Jobs and their results, by `QueueEvents`", async () =>
  Promise.all((await queue.addBulk([1, 2, 3].map((x) => ({ name: "a", data: { x } })))).map(result)),
  [2, 4, 6]);
await step("Delayed jobs", async () => {
  const job = await queue.add("later", { x: 5 }, { delay: 300 });
  const value = await result(job), { timestamp, processedOn } = await queue.getJob(job.id);
  return [value, processedOn - timestamp >= 300];
}, [10, true]);
await step("Retries with a backoff", async () => {
  const job = await queue.add("retried", { x: 7 }, { attempts: 3, backoff: { type: "exponential", delay: 50 } });
  return [await result(job), tries.retried];
}, [14, 3]);
await step("Jobs that fail", async () => {
  const job = await queue.add("fails", {});
  const reason = await result(job).catch((error) => error.message);
  return [reason, await (await queue.getJob(job.id)).getState(), await queue.getFailedCount()];
}, ["no luck", "failed", 1]);
await step("Job schedulers", async () => {
  const done = new Promise((seen) => worker.on("completed", (job) => tries.often >= 2 && seen(job.name)));
  await queue.upsertJobScheduler("often", { every: 100 }, { name: "often", data: { x: 1 } });
  const name = await done;
  return [name, (await queue.getJobSchedulers()).length, await queue.removeJobScheduler("often")];
}, ["often", 1, true]);
await step("Flows: a parent runs after its children", async () => {
  const flows = watched(new FlowProducer({ connection }));
  const child = (x) => ({ name: "child", queueName: "jobs", data: { x } });
  const flow = (...children) => ({ name: "parent", queueName: "jobs", data: {}, children });
  const one = await flows.add(flow(child(1), { ...child(2), children: [child(3)] }));
  const many = await flows.addBulk([flow(child(4)), flow(child(5), child(6))]);
  const values = await Promise.all([one, ...many].map(({ job }) => result(job)));
  await flows.close();
  return values;
}, [[2, 4], [8], [10, 12]]);
await step("`addBulk` of children whose parent waits for them", async () => {
  await queue.pause();
  const parent = await queue.add("parent", {}, { delay: 500 });
  const opts = { parent: { id: parent.id, queue: queue.qualifiedName } };
  const children = await queue.addBulk([8, 9].map((x) => ({ name: "child", data: { x }, opts })));
  await queue.resume();
  await Promise.all(children.map(result));
  return result(parent);
}, [16, 18]);
await step("Metrics, and workers by `CLIENT LIST`", async () =>
  [(await queue.getMetrics("completed")).meta.count > 9, (await queue.getMetrics("failed")).meta.count,
    await queue.getWorkersCount()], [true, 1, 1]);
await step("Progress, logs, priorities, pause and resume", async () => {
  await queue.pause();
  const [low, high] = await queue.addBulk([10, 1].map((priority) => ({ name: "p", data: { x: priority }, opts: { priority } })));
  const waiting = await queue.getPrioritizedCount();
  await queue.resume();
  await Promise.all([result(low), result(high)]);
  const job = await queue.getJob(low.id);
  return [waiting, job.progress, (await queue.getJobLogs(low.id)).logs];
}, [2, 50, ["half"]]);
await step("Remove, clean and count jobs", async () => {
  const job = await queue.add("never", {}, { delay: 100000 });
  await job.remove();
  await queue.clean(0, 100, "completed");
  await queue.clean(0, 100, "failed");
  const { completed, failed, delayed } = await queue.getJobCounts();
  return [completed, failed, delayed];
}, [0, 0, 0]);
await step("A denial: a prefix that no grant covers", async () => {
  const other = new Queue("jobs", { connection, prefix: "other" });
  other.on("error", () => {});
  const message = await other.add("a", {}).catch((error) => error.message);
  await other.close();
  return message.slice(0, 21);
}, "LEASH KEY_NOT_GRANTED");
await step("No error in the background", async () => broken, []);
await worker.close();
await events.close();
await queue.close();
