// An agent with plain ioredis: REDIS_URL has the gateway's address, and the token as password.
import { setTimeout } from "node:timers/promises";
import Redis from "ioredis";

const client = new Redis(process.env.REDIS_URL);
// A container that ends is started again, with the token that the file then has.
client.on("error", (error) => {
  console.error(error.message);
  process.exit(1);
});
try {
  await client.get("agents:context:43");
} catch (denial) {
  console.log(`denied: ${denial.message}`);
}
for (;;) {
  await client.set("agents:jobs:43:state", "running");
  console.log("agents:jobs:43:state is", await client.get("agents:jobs:43:state"));
  await setTimeout(10_000);
}
