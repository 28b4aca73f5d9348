// The listening socket: who may have it, how it ends.
#include "core/api/server.h"
#include "core/base/files.h"

#include <gantry/error.hpp>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>

namespace gantry::api {
namespace {

struct ServerTest : testing::Test {
    std::string dir;
    ServerSettings settings;
    std::shared_ptr<Router> router = std::make_shared<Router>();
    void SetUp() override {
        char name[] = "/tmp/gantry-api-XXXXXX";
        dir = mkdtemp(name);
        settings.socket_path = dir + "/s.sock";
        settings.run_dir = dir;
        router->add("GET", "/_ping", [](Exchange &x) { x.response.send(200, "OK", "text/plain"); });
        router->add("GET", "/hang", [](Exchange &x) {
            x.response.begin(200, "application/json");
            bool timed_out;
            wait_for(x.connection, -1, -1, timed_out);
        });
    }
    void TearDown() override { remove_tree(dir); }
    UniqueFd dial() const {
        UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        strcpy(address.sun_path, settings.socket_path.c_str());
        if (connect(fd.get(), reinterpret_cast<sockaddr *>(&address), sizeof address) != 0) fd.reset();
        return fd;
    }
};

TEST_F(ServerTest, serves_keeps_alive_and_stops) {
    Server server(settings, router);
    struct stat info {};
    ASSERT_EQ(stat(settings.socket_path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0660u);
    bool drained = false;
    std::thread loop([&] { drained = server.run(5000); });
    UniqueFd client = dial();
    ASSERT_TRUE(client);
    // Two requests in one packet: the second must not be lost with the first.
    write_all(
        client.get(),
        "GET /_ping HTTP/1.1\r\nHost: h\r\n\r\nGET /_ping HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "request");
    const std::string answer = read_all(client.get(), 65536, "answer");
    EXPECT_NE(answer.find("200 OK"), answer.rfind("200 OK"));
    // A stream that waits for ever ends with the server, an idle connection too.
    UniqueFd hanging = dial(), idle = dial();
    write_all(hanging.get(), "GET /hang HTTP/1.1\r\nHost: h\r\n\r\n", "request");
    char byte;
    ASSERT_EQ(recv(hanging.get(), &byte, 1, 0), 1);
    server.stop();
    loop.join();
    EXPECT_TRUE(drained);
}

TEST_F(ServerTest, replaces_a_stale_socket_and_refuses_a_live_one) {
    {
        UniqueFd dead(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        strcpy(address.sun_path, settings.socket_path.c_str());
        ASSERT_EQ(bind(dead.get(), reinterpret_cast<sockaddr *>(&address), sizeof address), 0);
    }
    Server server(settings, router);
    EXPECT_THROW(Server(settings, router), Error);
    EXPECT_TRUE(path_exists(settings.socket_path));
}

TEST_F(ServerTest, never_replaces_a_file) {
    open_file(settings.socket_path, O_WRONLY | O_CREAT);
    EXPECT_THROW(Server(settings, router), Error);
    EXPECT_TRUE(path_exists(settings.socket_path));
}

TEST_F(ServerTest, one_engine_per_run_directory) {
    UniqueFd lock = lock_engine(dir);
    try {
        lock_engine(dir);
        FAIL() << "the lock was given twice";
    } catch (const Error &error) {
        EXPECT_NE(error.message().find(std::to_string(getpid())), std::string::npos);
    }
    lock.reset();
    EXPECT_NO_THROW(lock_engine(dir));
}

TEST_F(ServerTest, too_many_connections_are_told) {
    settings.max_connections = 1;
    Server server(settings, router);
    std::thread loop([&] { server.run(5000); });
    UniqueFd first = dial();
    write_all(first.get(), "GET /hang HTTP/1.1\r\nHost: h\r\n\r\n", "request");
    char byte;
    EXPECT_EQ(recv(first.get(), &byte, 1, 0), 1);
    UniqueFd second = dial();
    const std::string answer = read_all(second.get(), 65536, "answer");
    EXPECT_NE(answer.find("503 Service Unavailable"), std::string::npos);
    const size_t body = answer.find("\r\n\r\n") + 4;
    EXPECT_EQ(answer.size() - body, 35u);
    server.stop();
    loop.join();
}

/// A server on a thread of its own, stopped at the end whatever happened.
struct Running {
    Server server;
    bool drained = false;
    std::thread loop;
    Running(const ServerSettings &settings, const std::shared_ptr<Router> &router)
        : server(settings, router), loop([this] { drained = server.run(5000); }) {}
    ~Running() { end(); }
    bool end() {
        server.stop();
        if (loop.joinable()) loop.join();
        return drained;
    }
};

std::string read_some(const UniqueFd &fd) {
    char buffer[4096];
    const ssize_t n = recv(fd.get(), buffer, sizeof buffer, 0);
    return std::string(buffer, n > 0 ? size_t(n) : 0);
}

TEST_F(ServerTest, a_silent_connection_gives_way_to_a_new_one) {
    settings.max_connections = 1;
    Running running(settings, router);
    UniqueFd first = dial();
    write_all(first.get(), "GET /_ping HTTP/1.1\r\nHost: h\r\n\r\n", "request");
    EXPECT_NE(read_some(first).find("200 OK"), std::string::npos);
    // On a busy machine the first one's thread may take its time to come back from its answer.
    std::string answer;
    for (int i = 0; i < 100 && answer.find("200 OK") == std::string::npos; ++i) {
        UniqueFd second = dial();
        write_all(second.get(), "GET /_ping HTTP/1.1\r\nHost: h\r\n\r\n", "request");
        answer = read_some(second);
    }
    ASSERT_NE(answer.find("200 OK"), std::string::npos) << answer;
    EXPECT_EQ(read_some(first), ""); // closed, not answered with rubbish
}

struct StuckTest : ServerTest {
    void SetUp() override {
        ServerTest::SetUp();
        router->add("GET", "/flood", [](Exchange &x) {
            x.response.begin(200, "application/json");
            const std::string piece(64u << 10, 'x');
            while (true)
                x.response.write(piece);
        });
    }
};

TEST_F(StuckTest, a_client_that_does_not_read_is_given_up) {
    settings.limits.stream_timeout_ms = 50;
    settings.max_connections = 1;
    Running running(settings, router);
    UniqueFd stuck = dial();
    write_all(stuck.get(), "GET /flood HTTP/1.1\r\nHost: h\r\n\r\n", "request");
    // Its place is free again although it keeps its end open.
    for (int i = 0; i < 200; ++i) {
        UniqueFd other = dial();
        const std::string ping = "GET /_ping HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        (void)!send(other.get(), ping.data(), ping.size(),
                    MSG_NOSIGNAL); // it may be refused and closed already
        if (read_some(other).find("200 OK") != std::string::npos) return;
        poll(nullptr, 0, 20);
    }
    FAIL() << "the thread of the stuck client never ended";
}

TEST_F(StuckTest, a_client_that_does_not_read_delays_no_stop) {
    settings.limits.stop_timeout_ms = 50;
    Running running(settings, router);
    UniqueFd stuck = dial();
    write_all(stuck.get(), "GET /flood HTTP/1.1\r\nHost: h\r\n\r\n", "request");
    EXPECT_NE(read_some(stuck).find("200 OK"), std::string::npos);
    EXPECT_TRUE(running.end());
}

TEST_F(ServerTest, an_unfinished_head_times_out) {
    settings.limits.header_timeout_ms = 50;
    Running running(settings, router);
    UniqueFd client = dial();
    write_all(client.get(), "GET /_ping HTTP/1.1\r\nX-Slow", "request");
    EXPECT_NE(read_some(client).find("408"), std::string::npos);
}

TEST_F(ServerTest, a_dripping_body_times_out_as_a_whole) {
    settings.limits.json_timeout_ms = 100;
    router->add("POST", "/json",
                [](Exchange &x) { x.response.send(200, x.request.body_json(), "text/plain"); });
    Running running(settings, router);
    for (const char *head : {"Content-Length: 1000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n1000\r\n"}) {
        UniqueFd client = dial();
        write_all(client.get(), std::string("POST /json HTTP/1.1\r\nHost: h\r\n") + head, "request");
        std::string answer;
        pollfd ready{client.get(), POLLIN, 0};
        for (int i = 0; i < 500 && answer.empty(); ++i) {
            (void)!send(client.get(), "x", 1, MSG_NOSIGNAL);
            if (poll(&ready, 1, 10) > 0) answer = read_some(client);
        }
        EXPECT_NE(answer.find("408"), std::string::npos) << head;
    }
}

TEST_F(ServerTest, offered_bytes_wait_for_the_client_and_not_the_other_way_round) {
    std::atomic<size_t> backlog = 0;
    UniqueFd offered(eventfd(0, EFD_CLOEXEC));
    router->add("GET", "/offer", [&](Exchange &x) {
        x.response.begin(200, "text/plain");
        for (int i = 0; i < 4096; ++i)
            x.response.offer(std::string(1024, char('a' + i % 26)));
        backlog = x.response.backlog();
        eventfd_write(offered.get(), 1);
    });
    Running running(settings, router);
    UniqueFd client = dial();
    write_all(client.get(), "GET /offer HTTP/1.0\r\nHost: h\r\n\r\n", "request");
    eventfd_t value;
    ASSERT_EQ(eventfd_read(offered.get(), &value), 0); // comes before anything has been read
    EXPECT_GT(backlog, 1u << 20);
    const std::string answer = read_all(client.get(), 8u << 20, "answer");
    const std::string body = answer.substr(answer.find("\r\n\r\n") + 4);
    ASSERT_EQ(body.size(), 4096u * 1024);
    for (int i = 0; i < 4096; ++i)
        ASSERT_EQ(body[size_t(i) * 1024 + 512], char('a' + i % 26)) << i;
}

} // namespace
} // namespace gantry::api
