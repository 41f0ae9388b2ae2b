// Makes calls through ioredis for benchmarks/peers/by_upstash.py: one JSON document a line, both
// ways; the first says how, and is not an argument since it has a token.
import { createHash, randomBytes } from "node:crypto";
import { createInterface } from "node:readline";
import { Ratelimit } from "@upstash/ratelimit";
import Redis from "ioredis";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const given = JSON.parse((await lines.next()).value);
const redis = new Redis(given.port, given.host);
const sha = (algorithm, text) => createHash(algorithm).update(text).digest("hex");
const granted = /^agents:jobs:[^:]+:(?:state|result)$/;
const inBerlin = new Intl.DateTimeFormat("sv-SE", { timeZone: "Europe/Berlin" });
const run = randomBytes(6).toString("hex");
let number = 0;

class Refused extends Error {}

// The library is written for Upstash's own client, and its scripts for Upstash's own server: other
// servers do not know the flag on their first line. They are loaded without it, once, and then called
// by digest, as the library does at home.
const loaded = new Map();
const client = {
  async evalsha(digest, keys, args) {
    const own = loaded.get(digest);
    if (own === undefined) throw new Error("NOSCRIPT");
    return redis.evalsha(own, keys.length, ...keys, ...args);
  },
  async eval(script, keys, args) {
    const plain = script.replace(/^#!lua flags=allow-key-locking\n/, "");
    loaded.set(sha("sha1", script), await redis.script("LOAD", plain));
    return this.evalsha(sha("sha1", script), keys, args);
  },
};

const ways = {
  set: (key) => redis.set(key, given.value),

  keyleash: (key) =>
    redis.evalsha(given.digest, 1, key, given.token, `${run}-${++number}`, "SET", key, given.value),

  upstash: (() => {
    const limiter = new Ratelimit({
      redis: client,
      limiter: Ratelimit.slidingWindow(given.rate, "1 m"),
      prefix: "peers:upstash",
    });
    return async (key) => {
      const record = await redis.get(`peers:token:${sha("sha256", given.token)}`);
      if (record !== given.identity) throw new Refused("token");
      if (!granted.test(key)) throw new Refused("key");
      if (!(await limiter.limit(given.identity)).success) throw new Refused("rate");
      const counter = `peers:budget:${given.identity}:${inBerlin.format(Date.now())}`;
      const used = await redis.incr(counter);
      if (used === 1) await redis.expire(counter, 2 * 86400);
      if (used > given.budget) throw new Refused("budget");
      await redis.set(key, given.value);
      number += 1;
      const trim = number % 97 === 0 ? ["MAXLEN", "~", given.retain] : [];
      await redis.xadd(
        `peers:audit:${given.identity}`, ...trim, "*", "token", "0123456789ab", "op", "SET",
        "key", key, "correlation", `${run}-${number}`, "policy", given.policy,
      );
    };
  })(),
};
const call = ways[given.way];

const commands = {
  async run(keys) {
    const taken = [];
    for (const key of keys) {
      const begun = process.hrtime.bigint();
      await call(key);
      taken.push(Number(process.hrtime.bigint() - begun));
    }
    return taken;
  },
  async race(shares) {
    const work = async (keys) => {
      for (const key of keys) {
        try {
          await call(key);
        } catch (error) {
          if (!(error instanceof Refused) && !error.message.startsWith("LEASH ")) throw error;
        }
      }
    };
    await Promise.all(shares.map(work));
    return [];
  },
};

for await (const line of lines) {
  const { command, keys } = JSON.parse(line);
  try {
    console.log(JSON.stringify({ taken: await commands[command](keys) }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }));
  }
}
redis.disconnect();
