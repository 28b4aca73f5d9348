"""A token server as registries send clients to (distribution's token specification): Basic or a refresh token
gives a signed token for what was asked for. Each request becomes a line of the log: method, who, scopes.
    token_server.py DIRECTORY ISSUER SERVICE    DIRECTORY has token.key and token.pem (signing), tls.key and
                                                tls.pem (serving); port and log are written there"""
import base64, http.server, json, secrets, ssl, subprocess, sys, time, urllib.parse

PLACE, ISSUER, SERVICE = sys.argv[1:]
USERS = {"alice": "pass word", "reader": "only"}
refresh_tokens = {}
log = open(f"{PLACE}/log", "a", buffering=1)
certificate = "".join(open(f"{PLACE}/token.pem").read().split("-----")[2].split())


def part(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def sign(claims):
    head = {"typ": "JWT", "alg": "RS256", "x5c": [certificate]}
    body = part(json.dumps(head).encode()) + b"." + part(json.dumps(claims).encode())
    made = subprocess.run(["openssl", "dgst", "-sha256", "-sign", f"{PLACE}/token.key"], input=body,
                          capture_output=True, check=True)
    return (body + b"." + part(made.stdout)).decode()


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, code, body):
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def grant(self, user, query, **more):
        scopes = " ".join(query.get("scope", [])).split()
        log.write(f"{self.command} {user} {' '.join(scopes)}\n")
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":", 2)
            allowed = {"alice": {"pull", "push"}, "reader": {"pull"}}.get(user, set())
            access.append({"type": kind, "name": name, "actions": [a for a in actions.split(",") if a in allowed]})
        now = int(time.time())
        token = sign({"iss": ISSUER, "sub": user, "aud": SERVICE, "exp": now + 60, "nbf": now - 5, "iat": now,
                      "jti": secrets.token_hex(8), "access": access})
        self.answer(200, {"token": token, "access_token": token, "expires_in": 60, **more})

    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        user = ""
        if given := self.headers.get("Authorization"):
            user, _, password = base64.b64decode(given.removeprefix("Basic ")).decode().partition(":")
            if USERS.get(user) != password:
                return self.answer(401, {"errors": [{"code": "UNAUTHORIZED", "message": "who are you"}]})
        more = {}
        if user and query.get("offline_token") == ["true"]:
            more["refresh_token"] = secrets.token_hex(16)
            refresh_tokens[more["refresh_token"]] = user
        self.grant(user or "-", query, **more)

    def do_POST(self):
        form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        one = lambda key: form.get(key, [""])[0]
        user, more = None, {}
        if one("grant_type") == "refresh_token":
            user = refresh_tokens.get(one("refresh_token"))
        elif one("grant_type") == "password" and USERS.get(one("username")) == one("password"):
            user = one("username")
            if one("access_type") == "offline":
                more["refresh_token"] = secrets.token_hex(16)
                refresh_tokens[more["refresh_token"]] = user
        if user is None:
            return self.answer(401, {"error": "invalid_grant"})
        self.grant(user, form, **more)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(f"{PLACE}/tls.pem", f"{PLACE}/tls.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
with open(f"{PLACE}/port.new", "w") as f:
    f.write(str(server.server_address[1]))
import os
os.rename(f"{PLACE}/port.new", f"{PLACE}/port")
server.serve_forever()
