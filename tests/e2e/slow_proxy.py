# Forwards GET requests to the registry at argv[1], blobs at about 1 MB/s; writes its port to argv[2].
import http.client
import http.server
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        upstream = http.client.HTTPConnection(sys.argv[1])
        upstream.request("GET", self.path, headers={k: v for k, v in self.headers.items() if k.lower() != "host"})
        answer = upstream.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                self.send_header(name, value)
        self.end_headers()
        try:
            while piece := answer.read(65536):
                self.wfile.write(piece)
                if "/blobs/" in self.path and len(piece) == 65536:
                    time.sleep(0.06)
        except OSError:
            self.close_connection = True

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
with open(sys.argv[2], "w") as f:
    f.write(str(server.server_port))
server.serve_forever()
