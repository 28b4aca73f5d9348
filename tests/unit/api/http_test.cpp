// The wire, over a socket pair: what is accepted, what is refused with which status, and that not one
// byte beyond the request is taken from the socket.
#include "core/api/router.h"

#include <gantry/error.hpp>
#include <gtest/gtest.h>

#include <functional>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

namespace gantry::api {
namespace {

struct Wire {
    UniqueFd client, server;
    Wire() {
        int fds[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
            throw std::runtime_error("socketpair");
        client.reset(fds[0]);
        server.reset(fds[1]);
    }
    void say(const std::string &text) { write_all(client.get(), text, "request"); }
    void hush() { shutdown(client.get(), SHUT_WR); }
    std::string hear() { return read_all(client.get(), 1 << 20, "answer"); }
};

HttpLimits quick() {
    HttpLimits limits;
    limits.header_timeout_ms = 150;
    limits.body_timeout_ms = 150;
    limits.idle_timeout_ms = 150;
    return limits;
}

/// Status of the error that reading one request (and its body) ends with; 0 for none.
int refusal(const std::string &text, HttpLimits limits = quick(), std::string *body = nullptr) {
    Wire wire;
    std::thread writer([&] {
        // The reader may stop early and close.
        for (size_t at = 0; at < text.size();) {
            ssize_t n = send(wire.client.get(), text.data() + at, text.size() - at, MSG_NOSIGNAL);
            if (n <= 0) break;
            at += size_t(n);
        }
    });
    int status = 0;
    {
        Connection connection(std::move(wire.server), limits, nullptr);
        try {
            Request request;
            if (connection.next(request)) {
                std::string got = request.body_text(1 << 20);
                if (body) *body = got;
            }
        } catch (const HttpError &error) {
            status = error.status;
        }
    }
    writer.join();
    return status;
}

TEST(Http, parses_a_request) {
    Wire wire;
    wire.say("POST /v1.41/containers/create?name=a%2Fb&x=1&x=2&y HTTP/1.1\r\nHost: h\r\nX-Thing: "
             "A\r\nx-thing: B\r\n"
             "Content-Length: 5\r\n\r\nhello");
    Connection connection(std::move(wire.server), quick(), nullptr);
    Request request;
    ASSERT_TRUE(connection.next(request));
    EXPECT_EQ(request.method, "POST");
    EXPECT_EQ(request.path, "/v1.41/containers/create");
    EXPECT_EQ(request.arg("name"), "a/b");
    EXPECT_EQ(request.query["x"], (std::vector<std::string>{"1", "2"}));
    EXPECT_TRUE(request.has("y"));
    EXPECT_FALSE(request.flag("y"));
    EXPECT_TRUE(request.flag("x"));
    EXPECT_EQ(request.header("x-thing"), "A, B");
    EXPECT_EQ(request.body_text(10), "hello");
}

TEST(Http, chunked_bodies) {
    std::string body;
    EXPECT_EQ(refusal("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
                      "5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: x\r\n\r\n",
                      quick(), &body),
              0);
    EXPECT_EQ(body, "hello world");
}

TEST(Http, malformed_requests_are_400) {
    const char *bad[] = {
        "GARBAGE\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET / HTTP/1.1\r\nNoColon\r\n\r\n",
        "GET / HTTP/1.1\r\nA : b\r\n\r\n",
        "G@T{} / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET relative HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabXX0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\r\n"};
    for (const char *text : bad)
        EXPECT_EQ(refusal(text), 400) << text;
}

TEST(Http, limits) {
    EXPECT_EQ(refusal("GET / HTTP/1.1\r\nX: " + std::string(70'000, 'a') + "\r\n\r\n"), 431);
    EXPECT_EQ(refusal("GET / HTTP/1.1\r\nX: " + std::string(60'000, 'a') + "\r\n\r\n"), 0);
    EXPECT_EQ(refusal("POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"), 413);
    EXPECT_EQ(refusal("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n200000\r\n" +
                      std::string(0x200000, 'x')),
              413);
    EXPECT_EQ(refusal("GET / HTTP/1.1\r\nHost: slow\r\n"), 408);
    EXPECT_EQ(refusal("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhel"), 408);
}

TEST(Http, end_in_the_middle_is_malformed) {
    Wire wire;
    wire.say("GET / HTT");
    wire.hush();
    Connection connection(std::move(wire.server), quick(), nullptr);
    Request request;
    EXPECT_THROW(connection.next(request), HttpError);
}

TEST(Http, nothing_beyond_the_request_is_read) {
    Wire wire;
    wire.say("POST /exec/x/start HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: "
             "2\r\n\r\n{}stdin first");
    Connection connection(std::move(wire.server), quick(), nullptr);
    Request request;
    ASSERT_TRUE(connection.next(request));
    EXPECT_EQ(request.body_text(10), "{}");
    Response response(connection, request);
    UniqueFd raw = response.hijack("application/vnd.docker.raw-stream");
    char left[64];
    const ssize_t n = read(raw.get(), left, sizeof left);
    EXPECT_EQ(std::string(left, size_t(n)), "stdin first");
    raw.reset();
    EXPECT_EQ(wire.hear(), "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
                           "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n");
}

TEST(Http, hijack_without_upgrade_is_a_bare_200) {
    Wire wire;
    wire.say("POST /x HTTP/1.1\r\nHost: h\r\n\r\n");
    Connection connection(std::move(wire.server), quick(), nullptr);
    Request request;
    ASSERT_TRUE(connection.next(request));
    Response(connection, request).hijack("application/vnd.docker.raw-stream").reset();
    EXPECT_EQ(wire.hear(), "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n");
}

TEST(Http, hangup_cancels_and_half_close_does_not) {
    Wire wire;
    Connection connection(std::move(wire.server), quick(), nullptr);
    CancelSource cancel;
    HangupWatch watch(connection, cancel);
    wire.hush();
    bool timed_out = false;
    EXPECT_TRUE(wait_for(connection, cancel.fd(), 100, timed_out));
    EXPECT_TRUE(timed_out);
    wire.client.reset();
    // Either of the two may notice first; both must.
    while (!cancel.cancelled())
        std::this_thread::yield();
    EXPECT_FALSE(wait_for(connection, -1, 5000, timed_out));
}

struct RouterTest : testing::Test {
    Router router;
    std::string seen;
    RouterTest() {
        router.add("GET HEAD", "/_ping", [](Exchange &x) { x.response.send(200, "OK", "text/plain"); });
        router.add("GET", "/images/json", [&](Exchange &) { seen = "list"; });
        router.add("GET", "/images/{name...}/json", [&](Exchange &x) {
            seen = x.request.params[0] + "@" + std::to_string(x.request.api_minor);
        });
        router.add("DELETE", "/images/{name...}", [&](Exchange &x) { seen = x.request.params[0]; });
        router.add("GET", "/fail/{class}", [](Exchange &x) {
            throw Error(static_cast<ErrorClass>(std::stoi(x.request.params[0])), "do thing: \"cause\"",
                        "try it");
        });
        router.add("GET", "/late", [](Exchange &x) {
            x.response.begin(200, "application/json");
            x.response.write("{}\n");
        });
    }
    std::string ask(const std::string &method, const std::string &target) {
        Wire wire;
        wire.say(method + " " + target + " HTTP/1.1\r\nHost: h\r\n\r\n");
        {
            Connection connection(std::move(wire.server), quick(), nullptr);
            Request request;
            if (!connection.next(request)) return "nothing";
            Response response(connection, request);
            Exchange exchange{request, response, connection};
            router.serve(exchange);
        }
        return wire.hear();
    }
    static std::string status(const std::string &answer) { return answer.substr(9, 3); }
    static std::string body(const std::string &answer) { return answer.substr(answer.find("\r\n\r\n") + 4); }
};

TEST_F(RouterTest, names_with_slashes_and_colons) {
    ask("GET", "/v1.41/images/127.0.0.1:5000/a/b:v1/json");
    EXPECT_EQ(seen, "127.0.0.1:5000/a/b:v1@41");
    ask("GET", "/images/docker.io%2Flibrary%2Fx/json");
    EXPECT_EQ(seen, "docker.io/library/x@47");
    ask("GET", "/v1.24/images/json");
    EXPECT_EQ(seen, "list");
    ask("DELETE", "/images/a/b");
    EXPECT_EQ(seen, "a/b");
}

TEST_F(RouterTest, versions) {
    EXPECT_EQ(body(ask("GET", "/v1.99/_ping")),
              "{\"message\":\"client version 1.99 is too new. Maximum supported API version is 1.47\"}\n");
    EXPECT_EQ(status(ask("GET", "/v1.23/_ping")), "400");
    EXPECT_NE(ask("GET", "/v1.12/_ping").find("is too old. Minimum supported API version is 1.24"),
              std::string::npos);
    EXPECT_EQ(status(ask("GET", "/v1.47/_ping")), "200");
    EXPECT_EQ(status(ask("GET", "/v2.0/_ping")), "400");
}

TEST_F(RouterTest, unknown_paths_and_methods_are_one_404) {
    for (const char *target : {"/nope", "/v1.41/nope", "/", "/v1.41"}) {
        const std::string answer = ask("GET", target);
        EXPECT_EQ(status(answer), "404") << target;
        EXPECT_EQ(body(answer), "{\"message\":\"page not found\"}\n");
        EXPECT_NE(answer.find("Content-Type: application/json\r\n"), std::string::npos);
    }
    EXPECT_EQ(status(ask("POST", "/_ping")), "404");
}

TEST_F(RouterTest, double_slash_moves) {
    const std::string answer = ask("GET", "/v1.41//images//json?a=b");
    EXPECT_EQ(status(answer), "301");
    EXPECT_NE(answer.find("Location: /v1.41/images/json?a=b\r\n"), std::string::npos);
}

TEST_F(RouterTest, head_has_length_and_no_body) {
    const std::string answer = ask("HEAD", "/_ping");
    EXPECT_NE(answer.find("Content-Length: 2\r\n"), std::string::npos);
    EXPECT_EQ(body(answer), "");
    for (const char *line :
         {"Api-Version: 1.47\r\n", "Ostype: linux\r\n", "Docker-Experimental: false\r\n", "Server: Gantry/"})
        EXPECT_NE(answer.find(line), std::string::npos) << line;
}

TEST_F(RouterTest, error_classes_become_statuses) {
    const std::pair<ErrorClass, const char *> cases[] = {{ErrorClass::kNotFound, "404"},
                                                         {ErrorClass::kAlreadyExists, "409"},
                                                         {ErrorClass::kFailedPrecondition, "409"},
                                                         {ErrorClass::kInvalidArgument, "400"},
                                                         {ErrorClass::kUnsupported, "501"},
                                                         {ErrorClass::kUnavailable, "500"},
                                                         {ErrorClass::kPermissionDenied, "403"},
                                                         {ErrorClass::kNoSpace, "500"},
                                                         {ErrorClass::kInternal, "500"}};
    for (const auto &[error_class, wanted] : cases) {
        const std::string answer = ask("GET", "/fail/" + std::to_string(int(error_class)));
        EXPECT_EQ(status(answer), wanted);
        EXPECT_EQ(body(answer), "{\"message\":\"do thing: \\\"cause\\\" (try it)\"}\n");
    }
    EXPECT_EQ(status(ask("GET", "/fail/word")), "500"); // a std::exception of a handler
}

TEST_F(RouterTest, streams_are_chunked_and_ended) {
    const std::string answer = ask("GET", "/late");
    EXPECT_NE(answer.find("Transfer-Encoding: chunked\r\n"), std::string::npos);
    EXPECT_EQ(body(answer), "3\r\n{}\n\r\n0\r\n\r\n");
}

} // namespace
} // namespace gantry::api
