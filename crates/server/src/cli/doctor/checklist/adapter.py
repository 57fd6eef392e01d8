"""Uses a workspace through the adapter; run by ``sandboxai doctor --python``."""

import uuid

from sandboxai.suna import create_sandbox_client

CONTENT = "doctor: $HOME 'quoted' \"twice\" \\ without a newline at its end"


def check(what, found, wanted):
    if found != wanted:
        raise SystemExit(f"{what} gave {found!r}, not {wanted!r}")


client = create_sandbox_client(f"doctor-{uuid.uuid4().hex}", embedded=False)
client.connect()
try:
    check("a Python cell", client.execute_code("print(6 * 7)")["output"], "42\n")
    command = client.execute_shell_command("echo hello; exit 3")
    check("a shell command", (command["success"], command["exit_code"]), (False, 3))
    check("writing a file", client.write_file("a folder/file", CONTENT)["success"], True)
    check("reading a file", client.read_file("a folder/file")["content"], CONTENT)
    check("a path out of the workspace", client.write_file("../../etc/passwd", "")["success"], False)
finally:
    client.delete()
