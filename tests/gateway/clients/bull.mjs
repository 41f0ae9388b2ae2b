import Queue from "bull";
import { step, url } from "./steps.mjs";

const broken = [];
const queue = new Queue("jobs", url);
queue.on("error", (error) => broken.push(error.message));
const tries = {};
queue.process(async (job) => {
  tries[job.data.name] = (tries[job.data.name] ?? 0) + 1;
  if (job.attemptsMade < (job.data.fails ?? 0)) throw new Error("no luck");
  await job.progress(50);
  return job.data.x * 2;
});

await step("Jobs and their results", async () =>
  Promise.all((await queue.addBulk([1, 2, 3].map((x) => ({ data: { x } })))).map((job) => job.finished())),
  [2, 4, 6]);
await step("A job that fails twice and then completes, with and without a backoff", async () => {
  const values = [];
  for (const [name, backoff] of [["at once", 0], ["later", 50]]) {
    const job = await queue.add({ name, x: 7, fails: 2 }, { attempts: 3, backoff });
    values.push(await job.finished(), tries[name]);
  }
  return values;
}, [14, 3, 14, 3]);
await step("A job that fails", async () => {
  const job = await queue.add({ fails: 1 });
  const reason = await job.finished().catch((error) => error.message);
  return [reason, await queue.getFailedCount()];
}, ["no luck", 1]);
await step("Delayed jobs", async () => (await queue.add({ x: 5 }, { delay: 200 })).finished(), 10);
await step("Workers, by `CLIENT LIST`", async () => (await queue.getWorkers()).length, 1);
await step("Pause, `empty` and resume", async () => {
  await queue.pause();
  await queue.addBulk([1, 2].map((x) => ({ data: { x } })));
  const paused = await queue.getPausedCount();
  await queue.empty();
  const left = await queue.count();
  await queue.resume();
  return [paused, left, await (await queue.add({ x: 4 })).finished()];
}, [2, 0, 8]);
await step("A denial: a prefix that no grant covers", async () => {
  const other = new Queue("jobs", url, { prefix: "other" });
  other.on("error", () => {});
  const message = await other.add({}).catch((error) => error.message);
  await other.close();
  return message.slice(0, 21);
}, "LEASH KEY_NOT_GRANTED");
await step("No error in the background", async () => broken, []);
await queue.close();
