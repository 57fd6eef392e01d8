// Cases for the TypeScript SDK of either name; run by node's own test runner, against
// the server that CONFORMANCE_API_URL names. Only public methods of the SDK are used.
import assert from "node:assert/strict";
import crypto from "node:crypto";
import http from "node:http";
import { after, before, describe, test } from "node:test";

const config = { apiKey: "any-key-will-do", apiUrl: process.env.CONFORMANCE_API_URL, target: "local" };

export const unique = () => crypto.randomBytes(6).toString("hex");

export async function until(what, title, seconds = 10) {
  const deadline = Date.now() + seconds * 1000;
  while (!(await what())) {
    assert.ok(Date.now() < deadline, title);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

// Opens a preview. Its host need not resolve here: it goes to loopback, as browsers do
// for *.localhost.
export function fetchPreview(url, headers = {}) {
  const { host, port, pathname, search } = new URL(url);
  return new Promise((resolve, reject) => {
    const request = http.get(
      { host: "127.0.0.1", port, path: pathname + search, headers: { Host: host, ...headers } },
      (answer) => {
        const parts = [];
        answer.on("data", (part) => parts.push(part));
        answer.on("end", () => resolve({ status: answer.statusCode, body: Buffer.concat(parts).toString() }));
      },
    );
    request.on("error", reject);
  });
}

export function suite(sdk) {
  const { Daytona, DaytonaNotFoundError, Image } = sdk;
  const daytona = new Daytona(config);
  let sandbox;
  before(async () => {
    sandbox = await daytona.create();
  });
  after(async () => {
    await sandbox?.delete();
    await daytona[Symbol.asyncDispose]?.();
  });

  describe("daytona", () => {
    test("create with labels and environment", async () => {
      const made = await daytona.create({ labels: { team: "blue" }, envVars: { GREETING: "hello" }, autoStopInterval: 30 });
      try {
        assert.equal(made.state, "started");
        assert.equal(made.labels.team, "blue");
        assert.equal(made.autoStopInterval, 30);
        assert.equal((await made.process.executeCommand("echo $GREETING")).result, "hello\n");
      } finally {
        await made.delete();
      }
    });

    test("get", async () => {
      assert.equal((await daytona.get(sandbox.id)).id, sandbox.id);
      assert.equal((await daytona.get(sandbox.name)).id, sandbox.id);
      await assert.rejects(daytona.get("no-such-sandbox"), (error) => {
        assert.ok(error instanceof DaytonaNotFoundError);
        return /not found/i.test(error.message);
      });
    });

    test("list by labels and states", async () => {
      const mark = unique();
      const made = [];
      try {
        for (let n = 0; n < 3; n++) made.push(await daytona.create({ labels: { mark } }));
        await made[0].stop();
        const all = [];
        for await (const item of daytona.list({ labels: { mark }, limit: 2 })) all.push(item.id);
        assert.deepEqual(all.sort(), made.map((one) => one.id).sort());
        const started = [];
        for await (const item of daytona.list({ labels: { mark }, states: ["started"], limit: 100 })) started.push(item.id);
        assert.deepEqual(started.sort(), made.slice(1).map((one) => one.id).sort());
      } finally {
        await Promise.all(made.map((one) => one.delete()));
      }
    });

    test("create from an image", async () => {
      const made = await daytona.create(
        { image: Image.base("sandboxai/box").runCommands("echo built-$((1 + 1)) > /made"), resources: { cpu: 1, memory: 1, disk: 3 } },
        { timeout: 120 },
      );
      try {
        assert.equal(made.memory, 1);
        assert.equal((await made.process.executeCommand("cat /made")).result, "built-2\n");
      } finally {
        await made.delete();
      }
    });
  });

  // What Kortix does with a session's sandbox today, in its order.
  test("kortix: a session from begin to end", async () => {
    const instance = unique();
    const made = await daytona.create(
      {
        snapshot: "sandboxai/box",
        envVars: { KORTIX: "1" },
        autoStopInterval: 720,
        autoArchiveInterval: 1440,
        autoDeleteInterval: -1,
        labels: { "kortix.managed": "true", "kortix.instance": instance },
        public: false,
      },
      { timeout: 30 },
    );
    try {
      const link = await made.getPreviewLink(8000);
      await made.process.executeCommand(
        "cd /tmp && echo agent > index.html && nohup python3 -m http.server 8000 >/dev/null 2>&1 & sleep 1",
        undefined,
        undefined,
        20,
      );
      const headers = {
        "X-Daytona-Preview-Token": link.token,
        "X-Daytona-Skip-Preview-Warning": "true",
        "X-Daytona-Disable-CORS": "true",
      };
      await until(async () => (await fetchPreview(`${link.url}/`, headers)).body === "agent\n", "the agent's port does not answer");
      assert.ok([401, 403, 302, 307].includes((await fetchPreview(`${link.url}/`)).status), "without its token");
      const answer = await made.process.executeCommand("echo $KORTIX; exit 3", undefined, undefined, 5);
      assert.deepEqual([answer.exitCode, answer.result], [3, "1\n"]);
      await made.refreshActivity();
      await made.stop(20);
      assert.equal((await daytona.get(made.id)).state, "stopped");
      await made.start();
      assert.equal((await made.getPreviewLink(8000)).url, link.url);
      const listed = [];
      for await (const one of daytona.list({ states: ["started"], labels: { "kortix.instance": instance }, limit: 100 })) listed.push(one.id);
      assert.deepEqual(listed, [made.id]);
    } finally {
      await daytona.delete(made);
    }
    await until(
      () => daytona.get(made.id).then(() => false, (error) => error instanceof DaytonaNotFoundError),
      "it is still there",
    );
  });

  test("kortix: a snapshot of its own", async () => {
    const name = `kortix/${unique()}:1`;
    const logs = [];
    await daytona.snapshot.create(
      {
        name,
        image: Image.base("sandboxai/box").env({ FROM_BUILD: "yes" }).runCommands(`echo step-$((1 + 1)) ${name}`),
        resources: { cpu: 1, memory: 2, disk: 5 },
      },
      { timeout: 120, onLogs: (line) => logs.push(line) },
    );
    try {
      assert.match(logs.join(""), /step-2/);
      assert.equal((await daytona.snapshot.get(name)).state, "active");
      const made = await daytona.create({ snapshot: name });
      assert.equal((await made.process.executeCommand("echo $FROM_BUILD")).result, "yes\n");
      await made.delete();
    } finally {
      await daytona.snapshot.delete(await daytona.snapshot.get(name));
    }
    await assert.rejects(daytona.snapshot.get(name), (error) => error instanceof DaytonaNotFoundError);
  });

  describe("process", () => {
    test("a command", async () => {
      const answer = await sandbox.process.executeCommand("pwd; echo $A; echo err >&2; exit 4", "/usr", { A: "b 'c'" }, 10);
      assert.deepEqual([answer.exitCode, answer.result], [4, "/usr\nb 'c'\nerr\n"]);
    });

    test("a timeout", async () => {
      await assert.rejects(sandbox.process.executeCommand("sleep 20", undefined, undefined, 1));
    });

    test("code", async () => {
      const answer = await sandbox.process.codeRun("import sys; print(6 * 7, sys.argv[1:])", { argv: ["x"] });
      assert.deepEqual([answer.exitCode, answer.result], [0, "42 ['x']\n"]);
    });

    test("charts", async () => {
      const answer = await sandbox.process.codeRun(
        "import matplotlib.pyplot as plt\nplt.plot([1, 2], [3, 4])\nplt.title('T')\nplt.show()",
      );
      assert.equal(answer.artifacts.charts.length, 1);
      assert.equal(answer.artifacts.charts[0].title, "T");
    });

    test("a session keeps its state", async () => {
      const session = `s-${unique()}`;
      await sandbox.process.createSession(session);
      await sandbox.process.executeSessionCommand(session, { command: "cd /usr; export KEPT=1" });
      const answer = await sandbox.process.executeSessionCommand(session, { command: "pwd; echo $KEPT; echo e >&2; (exit 2)" });
      assert.deepEqual([answer.exitCode, answer.stdout, answer.stderr], [2, "/usr\n1\n", "e\n"]);
      const listed = await sandbox.process.getSession(session);
      assert.deepEqual(listed.commands.map((one) => one.exitCode), [0, 2]);
      await sandbox.process.deleteSession(session);
      await assert.rejects(sandbox.process.getSession(session), (error) => error instanceof DaytonaNotFoundError);
    });

    test("output is followed", async () => {
      const session = `s-${unique()}`;
      await sandbox.process.createSession(session);
      const begun = await sandbox.process.executeSessionCommand(session, {
        command: "for i in 1 2 3; do echo o$i; echo e$i >&2; sleep 0.2; done",
        runAsync: true,
      });
      let stdout = "";
      let stderr = "";
      await sandbox.process.getSessionCommandLogs(session, begun.cmdId, (text) => (stdout += text), (text) => (stderr += text));
      assert.deepEqual([stdout, stderr], ["o1\no2\no3\n", "e1\ne2\ne3\n"]);
      const logs = await sandbox.process.getSessionCommandLogs(session, begun.cmdId);
      assert.deepEqual([logs.stdout, logs.stderr], ["o1\no2\no3\n", "e1\ne2\ne3\n"]);
      await sandbox.process.deleteSession(session);
    });

    test("a terminal", async () => {
      let shown = "";
      const decoder = new TextDecoder();
      const handle = await sandbox.process.createPty({
        id: `p-${unique()}`,
        cols: 100,
        rows: 30,
        envs: { MARK: "of env" },
        onData: (data) => (shown += decoder.decode(data, { stream: true })),
      });
      await handle.waitForConnection();
      await handle.resize(101, 31);
      await handle.sendInput('stty size; echo "[$MARK]"; exit 5\n');
      const result = await handle.wait();
      assert.equal(result.exitCode, 5);
      assert.match(shown, /31 101/);
      assert.match(shown, /\[of env\]/);
      await handle.disconnect();
    });
  });

  test("code interpreter", async () => {
    await sandbox.codeInterpreter.runCode("kept = 41");
    let streamed = "";
    const result = await sandbox.codeInterpreter.runCode("print(kept + 1)\n1 / 0", { onStdout: (message) => (streamed += message.output) });
    assert.equal(result.stdout, "42\n");
    assert.equal(streamed, "42\n");
    assert.equal(result.error.name, "ZeroDivisionError");
    const context = await sandbox.codeInterpreter.createContext("/usr");
    assert.equal((await sandbox.codeInterpreter.runCode("import os; print(os.getcwd())", { context })).stdout, "/usr\n");
    assert.equal((await sandbox.codeInterpreter.runCode("kept", { context })).error.name, "NameError");
    await sandbox.codeInterpreter.deleteContext(context);
  });

  describe("fs", () => {
    test("upload and download", async () => {
      const folder = `/tmp/${unique()}`;
      for (const content of [Buffer.alloc(0), Buffer.from([...Array(256).keys()]), crypto.randomBytes(3 << 20)]) {
        await sandbox.fs.uploadFile(content, `${folder}/new/ü file`);
        assert.ok((await sandbox.fs.downloadFile(`${folder}/new/ü file`)).equals(content));
      }
    });

    test("many files", async () => {
      const folder = `/tmp/${unique()}`;
      await sandbox.fs.uploadFiles([0, 1, 2].map((n) => ({ source: Buffer.from(`${n}`), destination: `${folder}/${n}` })));
      const answers = await sandbox.fs.downloadFiles([{ source: `${folder}/2` }, { source: `${folder}/none` }]);
      assert.equal(answers.find((one) => one.source === `${folder}/2`).result.toString(), "2");
      assert.ok(answers.find((one) => one.source === `${folder}/none`).error);
    });

    test("the rest", async () => {
      const folder = `/tmp/${unique()}`;
      await sandbox.fs.createFolder(folder, "750");
      await sandbox.fs.uploadFile(Buffer.from("needle here\n"), `${folder}/a.py`);
      assert.deepEqual((await sandbox.fs.listFiles(folder)).map((one) => one.name), ["a.py"]);
      assert.deepEqual((await sandbox.fs.findFiles(folder, "needle")).map((one) => one.line), [1]);
      assert.deepEqual((await sandbox.fs.searchFiles(folder, "*.py")).files, [`${folder}/a.py`]);
      assert.ok((await sandbox.fs.replaceInFiles([`${folder}/a.py`], "needle", "thread"))[0].success);
      await sandbox.fs.moveFiles(`${folder}/a.py`, `${folder}/b.py`);
      await sandbox.fs.setFilePermissions(`${folder}/b.py`, { mode: "600" });
      const details = await sandbox.fs.getFileDetails(`${folder}/b.py`);
      assert.deepEqual([details.name, details.isDir, details.permissions, details.size], ["b.py", false, "0600", 12]);
      assert.equal((await sandbox.fs.downloadFile(`${folder}/b.py`)).toString(), "thread here\n");
      await sandbox.fs.deleteFile(`${folder}/b.py`);
      await assert.rejects(sandbox.fs.getFileDetails(`${folder}/b.py`), (error) => error instanceof DaytonaNotFoundError);
      await sandbox.fs.deleteFile(folder, true);
    });
  });

  test("git", async () => {
    const folder = `/tmp/${unique()}`;
    const seed = await sandbox.process.executeCommand(
      `git init -q --bare -b main ${folder}/origin.git && git init -q -b main ${folder}/seed && cd ${folder}/seed && ` +
        `echo 1 > f && git add f && git -c user.name=a -c user.email=a@a commit -qm 1 && git push -q ${folder}/origin.git main`,
    );
    assert.equal(seed.exitCode, 0, seed.result);
    await sandbox.git.clone(`${folder}/origin.git`, `${folder}/clone`);
    await sandbox.fs.uploadFile(Buffer.from("2\n"), `${folder}/clone/f`);
    const status = await sandbox.git.status(`${folder}/clone`);
    assert.equal(status.currentBranch, "main");
    assert.deepEqual(status.fileStatus.map((one) => [one.name, one.worktree]), [["f", "Modified"]]);
    await sandbox.git.add(`${folder}/clone`, ["f"]);
    const commit = await sandbox.git.commit(`${folder}/clone`, "Second", "B", "b@example.com");
    assert.match(commit.sha, /^[0-9a-f]{40}$/);
    await sandbox.git.push(`${folder}/clone`);
    await sandbox.git.createBranch(`${folder}/clone`, "side");
    assert.deepEqual((await sandbox.git.branches(`${folder}/clone`)).branches.sort(), ["main", "side"]);
  });

  test("settings", async () => {
    assert.equal(await sandbox.getUserHomeDir(), "/root");
    assert.equal(await sandbox.getWorkDir(), "/workspace");
    await sandbox.setLabels({ a: "b" });
    await sandbox.setAutostopInterval(40);
    await sandbox.setAutoArchiveInterval(50);
    await sandbox.setAutoDeleteInterval(60);
    await sandbox.refreshData();
    assert.equal(sandbox.labels.a, "b");
    assert.deepEqual([sandbox.autoStopInterval, sandbox.autoArchiveInterval, sandbox.autoDeleteInterval], [40, 50, 60]);
  });

  test("archive", async () => {
    const made = await daytona.create();
    try {
      await made.fs.uploadFile(Buffer.from("kept"), "/root/kept");
      await made.stop();
      await made.archive();
      await until(async () => (await daytona.get(made.id)).state === "archived", "it is not archived", 30);
      await made.start();
      assert.equal((await made.fs.downloadFile("/root/kept")).toString(), "kept");
    } finally {
      await made.delete();
    }
  });

  test("a signed preview", async () => {
    await sandbox.process.executeCommand("cd /tmp && nohup python3 -m http.server 4100 >/dev/null 2>&1 & sleep 1");
    const signed = await sandbox.getSignedPreviewUrl(4100, 60);
    await until(async () => [200, 302, 307].includes((await fetchPreview(signed.url.replace(/\/?$/, "/"))).status), "it does not open");
    await sandbox.expireSignedPreviewUrl(4100, signed.token);
    assert.ok((await fetchPreview(signed.url.replace(/\/?$/, "/"))).status >= 400);
  });
}
