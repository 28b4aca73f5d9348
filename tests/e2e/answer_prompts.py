"""Runs a command in a terminal and answers its prompts; prints what the terminal showed, and exits as it did.
    answer_prompts.py PROMPT ANSWER [PROMPT ANSWER...] -- COMMAND..."""
import os, pty, sys

split = sys.argv.index("--")
script, command = sys.argv[1:split], sys.argv[split + 1:]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(command[0], command)
shown, searched = b"", 0
pairs = list(zip(script[::2], script[1::2]))
while True:
    try:
        data = os.read(terminal, 4096)
    except OSError:
        break
    if not data:
        break
    shown += data
    while pairs and (at := shown.find(pairs[0][0].encode(), searched)) >= 0:
        searched = at + len(pairs[0][0])
        os.write(terminal, pairs.pop(0)[1].encode() + b"\n")
sys.stdout.write(shown.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if not pairs else f"never asked: {pairs[0][0]}")
