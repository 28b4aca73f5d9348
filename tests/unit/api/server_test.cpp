// The listening socket: who may have it, how it ends.
#include "core/api/server.h"
#include "core/base/files.h"

#include <gantry/error.hpp>
#include <gtest/gtest.h>

#include <cstring>
#include <fcntl.h>
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

} // namespace
} // namespace gantry::api
