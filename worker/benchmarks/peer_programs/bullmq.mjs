// BullMQ: `node bullmq.mjs worker|submit|nap|idle|hold NUMBER`, as counted.py for the peers in Python. Its packages
// are where BENCH_PEERS says.
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";

const require = createRequire(`${process.env.BENCH_PEERS}/`);
const { Queue, Worker } = require("bullmq");
const Redis = require("ioredis");

const SLOTS = 16;
const BATCH = 1000;
const NAP = 100; // ms, as all others
const HOLD = 600_000;
const MANY = { submit: "nothing", nap: "nap" };
const [command, number] = [process.argv[2], Number(process.argv[3])];
const connect = () => new Redis(process.env.BENCH_URL, { maxRetriesPerRequest: null });
const now = () => Number(process.hrtime.bigint()) / 1e9; // the monotonic clock, as Python's
const own = connect();

if (command === "worker") {
  const marked = [Number(process.env.BENCH_WARM), Number(process.env.BENCH_TOTAL)];
  let count = 0;
  const worker = new Worker(
    "bench",
    async (job) => {
      if (job.name === "nap") await sleep(NAP);
      if (job.name === "moment" || job.name === "hold") own.rpush("bench:moments", now());
      if (job.name === "hold") await sleep(HOLD);
      if (job.name === "moment") return;
      if (marked.includes(++count)) own.rpush("bench:marks", now());
    },
    { connection: connect(), concurrency: SLOTS },
  );
  process.on("SIGTERM", async () => {
    await worker.close();
    process.exit(0);
  });
} else {
  const queue = new Queue("bench", { connection: connect() });
  await queue.waitUntilReady();
  let answer;
  if (command in MANY) {
    const began = now();
    for (let at = 0; at < number; at += BATCH) {
      const size = Math.min(BATCH, number - at);
      await queue.addBulk(Array.from({ length: size }, () => ({ name: MANY[command], data: { text: "x" } })));
    }
    answer = now() - began;
  } else if (command === "hold") {
    await queue.add("hold", { text: "x" });
    await own.blpop("bench:moments", 60);
    answer = 0;
  } else {
    answer = [];
    for (let task = 0; task < number; task++) {
      await sleep(10 + 10 * Math.random());
      const asked = now();
      await queue.add("moment", { text: "x" });
      const [, moment] = await own.blpop("bench:moments", 60);
      answer.push((Number(moment) - asked) * 1000);
    }
  }
  process.stdout.write(JSON.stringify(answer), () => process.exit(0));
}
