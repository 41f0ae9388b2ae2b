import { createClient, defineScript } from "redis";
import { denied, step, url } from "./steps.mjs";

const release = defineScript({
  SCRIPT: process.env.RELEASE_LUA,
  NUMBER_OF_KEYS: 1,
  parseCommand(parser, key, token) {
    parser.pushKey(key);
    parser.push(token);
  },
  transformReply: undefined,
});
const redis = createClient({
  url, name: "node-redis-1", scripts: { release },
  ...(process.env.PROTOCOL ? { RESP: Number(process.env.PROTOCOL) } : {}),
});
redis.on("error", (error) => console.error(error.message));
await redis.connect();
const key = (name) => `agents:jobs:1:${name}`;
const another = async () => {
  const client = redis.duplicate();
  client.on("error", (error) => console.error(error.message));
  return client.connect();
};

await step("Strings, hashes, sets, sorted sets, streams", async () => [
  await redis.set(key("state"), "running", { EX: 100 }), await redis.get(key("state")),
  await redis.hSet(key("h"), { a: 1, b: 2 }), await redis.hGetAll(key("h")),
  await redis.sAdd(key("s"), ["a", "b"]), (await redis.sMembers(key("s"))).sort(),
  await redis.zAdd(key("z"), { score: 1.5, value: "m" }), await redis.zRangeWithScores(key("z"), 0, -1),
  await redis.xAdd(key("x"), "1-1", { f: "v" }),
  (await redis.xRead({ key: key("x"), id: "0" }))[0].messages[0].message,
  await redis.get(key("none")),
], [
  "OK", "running", 2, { a: "1", b: "2" }, 2, ["a", "b"], 1, [{ value: "m", score: 1.5 }],
  "1-1", { f: "v" }, null,
]);
await denied("Denials, as errors", {
  KEY_NOT_GRANTED: () => redis.get("agents:context:1"),
  COMMAND_REFUSED: () => redis.sendCommand(["FLUSHALL"]),
  CHANNEL_NOT_GRANTED: () => redis.publish("news", "hi"),
});
await step("Pipelines: commands that are sent without waiting", async () =>
  [
    await Promise.all([
      redis.set(key("n"), "1"), redis.incr(key("n")),
      redis.get("other").catch((error) => error.message.slice(0, 21)), redis.incr(key("n")),
    ]),
    (await Promise.all(Array.from({ length: 100 }, () => redis.incr(key("many"))))).at(-1),
  ], [["OK", 2, "LEASH KEY_NOT_GRANTED", 3], 100]);
await step("Transactions", () =>
  redis.multi().set(key("n"), "5").incr(key("n")).hGetAll(key("h")).exec(),
  ["OK", 6, { a: "1", b: "2" }]);
await step("WATCH, with a conflict and without", async () => {
  const watching = await another(), seen = [];
  for (const conflict of [true, false]) {
    await watching.watch(key("n"));
    if (conflict) await redis.set(key("n"), "theirs");
    const reply = watching.multi().set(key("n"), "mine").exec();
    seen.push(await reply.catch((error) => error.constructor.name));
  }
  watching.destroy();
  return [...seen, await redis.get(key("n"))];
}, ["WatchError", ["OK"], "mine"]);
await step("Blocking commands", async () => {
  const waiting = await another();
  const item = waiting.blPop(key("q"), 10);
  await redis.rPush(key("q"), "x");
  const seen = [await item, await waiting.blPop(key("q"), 0.1)];
  waiting.destroy();
  return seen;
}, [{ key: key("q"), element: "x" }, null]);
await step("Subscriptions", async () => {
  const subscriber = await another();
  const seen = await new Promise(async (done) => {
    await subscriber.pSubscribe("agents:news:*", (message, channel) => done([channel, message]));
    await redis.publish("agents:news:1", "hi");
  });
  await subscriber.pUnsubscribe("agents:news:*");
  subscriber.destroy();
  return seen;
}, ["agents:news:1", "hi"]);
await step("Locks, released by an approved script of `defineScript`", async () => {
  const take = (token) => redis.set(key("lock"), token, { PX: 10000, NX: true });
  return [
    await take("a"), await take("b"),
    await redis.release(key("lock"), "b"), await redis.release(key("lock"), "a"), await take("b"),
  ];
}, ["OK", null, 0, 1, "OK"]);
await step("SCAN", async () => {
  const keys = [];
  for await (const page of redis.scanIterator({ MATCH: key("*") })) keys.push(...page);
  return keys.filter((name) => name === key("h")).length;
}, 1);
await redis.close();
