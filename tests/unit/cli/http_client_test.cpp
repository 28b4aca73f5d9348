// The client against a socket pair whose other end plays a good or an evil daemon.
#include "core/cli/client.h"
#include "core/cli/http_client.h"

#include <gantry/error.hpp>

#include <gtest/gtest.h>

#include <sys/socket.h>
#include <thread>
#include <unistd.h>

namespace gantry::cli {
namespace {

struct Wire {
    Wire() {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
            throw Error::from_errno(errno, "socketpair");
        connection.emplace(UniqueFd(pair[0]));
        peer = UniqueFd(pair[1]);
    }
    // Small pieces: the reader must not rely on where a read ends.
    void say(std::string text, bool close = true, size_t piece = 7) {
        writer = std::thread([this, text = std::move(text), close, piece] {
            for (size_t at = 0; at < text.size(); at += piece)
                if (::send(peer.get(), text.data() + at, std::min(piece, text.size() - at), MSG_NOSIGNAL) < 0)
                    break;
            if (close) ::shutdown(peer.get(), SHUT_WR);
        });
    }
    ~Wire() {
        connection.reset(); // lets a blocked writer end
        if (writer.joinable()) writer.join();
    }
    std::optional<HttpConnection> connection;
    UniqueFd peer;
    std::thread writer;
};

TEST(Http, ContentLengthAndKeepAlive) {
    Wire wire;
    wire.say("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A:  b \r\n\r\nhello"
             "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
             false);
    HttpHead head = wire.connection->read_head();
    EXPECT_EQ(head.status, 200);
    EXPECT_EQ(head.header("x-a"), "b");
    EXPECT_EQ(wire.connection->read_body(), "hello");
    EXPECT_EQ(wire.connection->read_head().status, 404);
    EXPECT_EQ(wire.connection->read_body(), "{}");
    EXPECT_TRUE(wire.connection->reusable());
    wire.writer.join();
    wire.peer.reset();
    EXPECT_FALSE(wire.connection->reusable()) << "a closed peer must be noticed before the next request";
}

TEST(Http, Chunked) {
    Wire wire;
    wire.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: "
             "chunked\r\n\r\n3\r\n{\"a\r\n4;ext=1\r\n\":1}\r\nA\r\n\r\nline two\r\n0\r\nTrailer: x\r\n\r\n");
    wire.connection->read_head();
    std::string line;
    ASSERT_TRUE(wire.connection->read_line(line));
    EXPECT_EQ(line, "{\"a\":1}");
    ASSERT_TRUE(wire.connection->read_line(line));
    EXPECT_EQ(line, "line two");
    EXPECT_FALSE(wire.connection->read_line(line));
}

TEST(Http, UntilCloseAndNoBody) {
    Wire wire;
    wire.say("HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\nto the end");
    EXPECT_EQ(wire.connection->read_head().status, 204);
    EXPECT_EQ(wire.connection->read_body(), "");
    wire.connection->read_head();
    EXPECT_EQ(wire.connection->read_body(), "to the end");
    EXPECT_FALSE(wire.connection->reusable());
}

TEST(Http, Upgrade) {
    Wire wire;
    wire.say("HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nraw", true, 1000);
    EXPECT_EQ(wire.connection->read_head().status, 101);
    EXPECT_EQ(wire.connection->take_buffered(), "raw");
}

class Malformed : public testing::TestWithParam<std::string> {};
TEST_P(Malformed, IsRefused) {
    Wire wire;
    wire.say(GetParam(), true, 4096);
    EXPECT_THROW(
        {
            wire.connection->read_head();
            wire.connection->read_body(1000);
        },
        Error);
}
INSTANTIATE_TEST_SUITE_P(
    Http, Malformed,
    testing::Values("", "SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 abc X\r\n\r\n", "HTTP/1.1 20",
                    "HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "HTTP/1.1 200 OK\r\n: x\r\n\r\n",
                    "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
                    "HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999999\r\n\r\n",
                    "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
                    "HTTP/1.1 200 OK\r\nX: " + std::string(70000, 'a') + "\r\n\r\n",
                    "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + std::string(2000, 'b')));

TEST(Http, RequestForm) {
    Wire wire;
    wire.connection->send(
        {.method = "POST", .target = "/x", .headers = {{"A", "b"}}, .body = "{}", .has_body = true});
    wire.connection->send({.method = "POST", .target = "/y", .upgrade = true});
    char buffer[1024];
    ssize_t count = recv(wire.peer.get(), buffer, sizeof buffer, 0);
    std::string sent(buffer, static_cast<size_t>(count));
    EXPECT_TRUE(sent.starts_with("POST /x HTTP/1.1\r\nHost: gantry\r\n")) << sent;
    EXPECT_NE(sent.find("A: b\r\nContent-Length: 2\r\n\r\n{}POST /y"), std::string::npos) << sent;
    EXPECT_TRUE(sent.ends_with("Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n")) << sent;
    wire.peer.reset();
    EXPECT_THROW(wire.connection->send({.target = "/z"}), Error) << "not a SIGPIPE";
}

TEST(Http, UrlEncoding) { EXPECT_EQ(url_encode("a/b c:1%ü~"), "a%2Fb%20c%3A1%25%C3%BC~"); }

TEST(Endpoint, Parses) {
    EXPECT_EQ(Endpoint::parse("unix:///a/b.sock").path, "/a/b.sock");
    EXPECT_EQ(Endpoint::parse("/a/b.sock").path, "/a/b.sock");
    EXPECT_FALSE(Endpoint::parse("unix:///a").is_default);
    EXPECT_THROW(Endpoint::parse("tcp://1.2.3.4:5"), Error);
    EXPECT_THROW(Endpoint::parse("unix://" + std::string(200, 'a')), Error);
}

TEST(Endpoint, AbsentDaemonNamesTheWayOut) {
    Client client(Endpoint::parse("unix:///nonexistent/gantry.sock"));
    try {
        client.connect();
        FAIL() << "connected to nothing";
    } catch (const Error &error) {
        EXPECT_EQ(error.message(),
                  "cannot connect to the gantry daemon at unix:///nonexistent/gantry.sock. Is it running?");
        EXPECT_NE(error.hint().find("gantryd"), std::string::npos);
    }
}

} // namespace
} // namespace gantry::cli
