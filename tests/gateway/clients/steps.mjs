// Steps of a program: each is a feature, and prints a line of JSON with what went wrong, if anything.
import { deepStrictEqual } from "node:assert";

export const url = process.env.REDIS_URL;

async function report(feature, run) {
  let error = "";
  try {
    await run();
  } catch (caught) {
    error = caught.message || String(caught);
  }
  console.log(JSON.stringify({ feature, error }));
}

/** A feature with a value, or with the list of the values of several calls. */
export const step = (feature, run, expected) =>
  report(feature, async () => {
    const value = await run();
    deepStrictEqual(value === undefined ? null : JSON.parse(JSON.stringify(value)), expected);
  });

/** Calls that the guard denies, by their codes. */
export const denied = (feature, calls) =>
  report(feature, async () => {
    for (const [code, run] of Object.entries(calls)) {
      const message = await run().then((value) => `no denial, but ${value}`, (caught) => caught.message);
      if (!message.startsWith(`LEASH ${code} `)) throw new Error(message);
    }
  });
