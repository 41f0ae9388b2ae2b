import { Redis } from "ioredis";
import { denied, step, url } from "./steps.mjs";

const redis = new Redis(url, { connectionName: "ioredis-1", maxRetriesPerRequest: 1 });
const key = (name) => `agents:jobs:1:${name}`;

await step("Strings, hashes, sets, sorted sets, streams", async () => [
  await redis.set(key("state"), "running", "EX", 100), await redis.get(key("state")),
  await redis.hset(key("h"), { a: 1, b: 2 }), await redis.hgetall(key("h")),
  await redis.sadd(key("s"), "a", "b"), (await redis.smembers(key("s"))).sort(),
  await redis.zadd(key("z"), 1.5, "m"), await redis.zrange(key("z"), 0, -1, "WITHSCORES"),
  await redis.xadd(key("x"), "1-1", "f", "v"), await redis.xread("STREAMS", key("x"), "0"),
  await redis.get(key("none")),
], [
  "OK", "running", 2, { a: "1", b: "2" }, 2, ["a", "b"], 1, ["m", "1.5"],
  "1-1", [[key("x"), [["1-1", ["f", "v"]]]]], null,
]);
await step("Bytes that are no text", async () => {
  const bytes = Buffer.from([0, 13, 10, 255]);
  await redis.set(key("bytes"), bytes);
  return bytes.equals(await redis.getBuffer(key("bytes")));
}, true);
await denied("Denials, as errors", {
  KEY_NOT_GRANTED: () => redis.get("agents:context:1"),
  COMMAND_REFUSED: () => redis.call("FLUSHALL"),
  CHANNEL_NOT_GRANTED: () => redis.publish("news", "hi"),
});
await step("Pipelines", async () => {
  const pipeline = redis.pipeline().set(key("n"), 1).incr(key("n")).get("other").incr(key("n"));
  return (await pipeline.exec()).map(([error, value]) => error?.message.slice(0, 21) ?? value);
}, ["OK", 2, "LEASH KEY_NOT_GRANTED", 3]);
await step("Commands that are sent without waiting", () =>
  Promise.all(Array.from({ length: 100 }, () => redis.incr(key("many")))),
  Array.from({ length: 100 }, (_, at) => at + 1));
await step("Transactions", () =>
  redis.multi().set(key("n"), 5).incr(key("n")).hgetall(key("h")).exec(),
  [[null, "OK"], [null, 6], [null, { a: "1", b: "2" }]]);
await step("WATCH, with a conflict and without", async () => {
  const other = redis.duplicate(), seen = [];
  for (const conflict of [true, false]) {
    await redis.watch(key("n"));
    if (conflict) await other.set(key("n"), "theirs");
    seen.push(await redis.multi().set(key("n"), "mine").exec());
  }
  await other.quit();
  return [...seen, await redis.get(key("n"))];
}, [null, [[null, "OK"]], "mine"]);
await step("Blocking commands", async () => {
  const waiting = redis.duplicate();
  const item = waiting.blpop(key("q"), 10);
  await redis.rpush(key("q"), "x");
  const seen = [await item, await waiting.blpop(key("q"), 0.1)];
  await waiting.quit();
  return seen;
}, [[key("q"), "x"], null]);
await step("Subscriptions", async () => {
  const subscriber = redis.duplicate();
  const message = new Promise((done) => subscriber.on("pmessage", (...words) => done(words)));
  const count = await subscriber.psubscribe("agents:news:*");
  await redis.publish("agents:news:1", "hi");
  const seen = [count, await message, await subscriber.punsubscribe("agents:news:*")];
  await subscriber.quit();
  return seen;
}, [1, ["agents:news:*", "agents:news:1", "hi"], 0]);
await step("Locks, released by an approved script of `defineCommand`", async () => {
  const lua = process.env.RELEASE_LUA;
  redis.defineCommand("release", { numberOfKeys: 1, lua });
  const take = (token) => redis.set(key("lock"), token, "PX", 10000, "NX");
  return [
    await take("a"), await take("b"),
    await redis.release(key("lock"), "b"), await redis.release(key("lock"), "a"), await take("b"),
  ];
}, ["OK", null, 0, 1, "OK"]);
await step("SCAN", async () => {
  const keys = [];
  for await (const page of redis.scanStream({ match: key("*") })) keys.push(...page);
  return keys.filter((name) => name === key("h")).length;
}, 1);
await step("Integers past 2^53, with `stringNumbers`", async () => {
  const exact = redis.duplicate({ stringNumbers: true });
  await exact.set(key("big"), "9007199254740992");
  const seen = await exact.incr(key("big"));
  await exact.quit();
  return seen;
}, "9007199254740993");
await redis.quit();
