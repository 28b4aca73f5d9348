"""A proxy that knows CONNECT alone, and asks for a password. Each tunnel becomes a line of the log.
    connect_proxy.py PORT_FILE LOG USER:PASSWORD"""
import base64, os, socket, sys, threading

port_file, log_file, secret = sys.argv[1:]
log = open(log_file, "a", buffering=1)


def pump(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    finally:
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def serve(client):
    with client:
        head = b""
        while b"\r\n\r\n" not in head:
            data = client.recv(4096)
            if not data:
                return
            head += data
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ")
        given = [line.split(": ", 1)[1] for line in lines if line.lower().startswith("proxy-authorization: ")]
        allowed = given == ["Basic " + base64.b64encode(secret.encode()).decode()]
        log.write(f"{method} {target} {'ok' if allowed else 'denied'}"
                  f"{' with the registry credentials' if any(l.lower().startswith('authorization') for l in lines) else ''}\n")
        if method != "CONNECT" or not allowed:
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"p\"\r\n"
                           b"Content-Length: 0\r\nConnection: close\r\n\r\n")
            return
        host, port = target.rsplit(":", 1)
        with socket.create_connection((host, int(port))) as server:
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            other = threading.Thread(target=pump, args=(server, client))
            other.start()
            pump(client, server)
            other.join()


listener = socket.create_server(("127.0.0.1", 0))
with open(port_file + ".new", "w") as f:
    f.write(str(listener.getsockname()[1]))
os.rename(port_file + ".new", port_file)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
