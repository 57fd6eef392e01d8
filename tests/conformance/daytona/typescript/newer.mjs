// Cases for methods that only the newest TypeScript SDK has.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { unique, until } from "./suite.mjs";

export function newer(sdk) {
  const { Daytona } = sdk;
  const config = { apiKey: "any-key-will-do", apiUrl: process.env.CONFORMANCE_API_URL, target: "local" };

  describe("newer methods", () => {
    const daytona = new Daytona(config);
    let sandbox;
    before(async () => {
      sandbox = await daytona.create();
    });
    after(async () => {
      await sandbox?.delete();
      await daytona[Symbol.asyncDispose]?.();
    });

    test("metrics", async () => {
      const metrics = await sandbox.getMetricsLatest();
      assert.ok(metrics.memUsed > 0 && metrics.memUsed <= metrics.memTotal);
    });

    test("environment", async () => {
      await sandbox.updateEnv({ COMES: "1" });
      assert.equal((await sandbox.process.executeCommand("echo $COMES")).result, "1\n");
    });

    test("git", async () => {
      const path = `/tmp/${unique()}`;
      await sandbox.git.init(path, false, "trunk");
      await sandbox.git.configureUser("A", "a@example.com");
      assert.equal(await sandbox.git.getConfig("user.name"), "A");
      await sandbox.git.remoteAdd(path, "origin", "https://example.com/a.git");
      assert.equal(await sandbox.git.remoteGet(path, "origin"), "https://example.com/a.git");
    });

    test("a snapshot of the sandbox", async () => {
      const name = `suite/${unique()}:1`;
      await sandbox.fs.uploadFile(Buffer.from("inside"), "/root/file");
      await sandbox.createSnapshot(name);
      const copy = await daytona.create({ snapshot: name });
      try {
        assert.equal((await copy.fs.downloadFile("/root/file")).toString(), "inside");
      } finally {
        await copy.delete();
        await daytona.snapshot.delete(await daytona.snapshot.get(name));
      }
    });

    test("signed file URLs", async () => {
      await sandbox.fs.uploadFile(Buffer.from("signed"), "/tmp/signed");
      const answer = await fetch(await sandbox.downloadUrl("/tmp/signed", 60));
      assert.equal(await answer.text(), "signed");
    });

    test("events tell of what another client does", async () => {
      await sandbox.stop();
      await sandbox.start();
      const other = new Daytona(config);
      await (await other.get(sandbox.id)).stop();
      await until(() => sandbox.state === "stopped", "no event", 5);
      await sandbox.start();
      await other[Symbol.asyncDispose]?.();
    });
  });
}
