# Forwards connections to HOST:PORT at argv[1]; cuts the first argv[3] of them that carried argv[2] bytes towards
# it. Writes its port to argv[4].
import socket
import struct
import sys
import threading

host, port = sys.argv[1].split(":")
limit, cuts = int(sys.argv[2]), int(sys.argv[3])
lock = threading.Lock()


def cut_now(carried):
    global cuts
    with lock:
        if carried < limit or cuts == 0:
            return False
        cuts -= 1
        return True


def forward(source, target, upwards):
    carried = 0
    try:
        while data := source.recv(65536):
            carried += len(data)
            if upwards and cut_now(carried):
                for end in (source, target):  # a reset
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                break
            target.sendall(data)
    except OSError:
        pass
    for end in (source, target):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
    if upwards:
        source.close()
        target.close()


listener = socket.create_server(("127.0.0.1", 0))
with open(sys.argv[4], "w") as f:
    f.write(str(listener.getsockname()[1]))
while True:
    client, _ = listener.accept()
    upstream = socket.create_connection((host, int(port)))
    threading.Thread(target=forward, args=(client, upstream, True), daemon=True).start()
    threading.Thread(target=forward, args=(upstream, client, False), daemon=True).start()
