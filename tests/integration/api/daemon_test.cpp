// gantryd as a process: it starts on fresh state, answers, refuses a second one beside it, survives
// kill -9 by replacing what it left, and ends politely on SIGTERM.
#include "core/base/files.h"

#include <gtest/gtest.h>

#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

namespace gantry {
namespace {

const std::string kDaemon = std::string(GANTRY_BINARY_DIR) + "/bin/gantryd";

class DaemonTest : public testing::Test {
  protected:
    std::string dir;
    pid_t pid = -1;

    void SetUp() override {
        if (geteuid() != 0) GTEST_SKIP() << "needs root";
        for (const std::string &needed :
             {kDaemon, std::string(GANTRY_BINARY_DIR) + "/lib/gantry/gantry-shim",
              std::string(GANTRY_BINARY_DIR) + "/lib/gantry/plugins/net-bridge.so"})
            if (access(needed.c_str(), R_OK) != 0) GTEST_SKIP() << needed << " is not built";
        char name[] = "/tmp/gantry-daemon-XXXXXX";
        dir = mkdtemp(name);
        write_file_atomically(dir + "/gantry.toml",
                              "[engine]\nroot = \"" + dir + "/root\"\nrun = \"" + dir +
                                  "/run\"\nsocket = \"" + dir +
                                  "/s.sock\"\nwarm_sandboxes = 0\n[storage]\ndriver = "
                                  "\"vfs\"\n[network.bridge]\nname = \"gtapi" +
                                  std::to_string(getpid() % 100000) + "\"\nsubnet = \"10.213.77.0/24\"\n",
                              0644, false);
    }
    void TearDown() override {
        if (pid > 0) {
            kill(pid, SIGKILL);
            waitpid(pid, nullptr, 0);
        }
        if (dir.empty()) return;
        std::string text;
        run({"--clean"}, text);
        remove_tree(dir);
    }

    pid_t spawn(const std::vector<std::string> &more, int out) {
        const pid_t child = fork();
        if (child != 0) return child;
        std::vector<std::string> args = {kDaemon, "--config", dir + "/gantry.toml"};
        args.insert(args.end(), more.begin(), more.end());
        std::vector<char *> argv;
        for (std::string &arg : args)
            argv.push_back(arg.data());
        argv.push_back(nullptr);
        dup2(out, 1);
        dup2(out, 2);
        execv(argv[0], argv.data());
        _exit(127);
    }
    /// Exit code; the output in `text`.
    int run(const std::vector<std::string> &more, std::string &text) {
        int fds[2];
        if (pipe2(fds, O_CLOEXEC) != 0) return -1;
        UniqueFd in(fds[0]), out(fds[1]);
        const pid_t child = spawn(more, out.get());
        out.reset();
        text = read_all(in.get(), 1 << 20, "output");
        int status = 0;
        waitpid(child, &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }
    /// Starts the engine and waits for its READY=1 datagram.
    bool start() {
        UniqueFd notify(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        const sockaddr_un address = address_of(dir + "/notify");
        unlink(address.sun_path);
        if (bind(notify.get(), reinterpret_cast<const sockaddr *>(&address), sizeof address) != 0)
            return false;
        UniqueFd log = open_file(dir + "/log", O_WRONLY | O_CREAT | O_APPEND);
        setenv("NOTIFY_SOCKET", address.sun_path, 1);
        pid = spawn({}, log.get());
        unsetenv("NOTIFY_SOCKET");
        pollfd ready{notify.get(), POLLIN, 0};
        char text[64] = {};
        if (poll(&ready, 1, 20'000) <= 0 || recv(notify.get(), text, sizeof text - 1, 0) < 0) {
            ADD_FAILURE() << "gantryd is not ready: " << read_file(dir + "/log");
            return false;
        }
        return strcmp(text, "READY=1\n") == 0;
    }
    static sockaddr_un address_of(const std::string &path) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
        return address;
    }
    std::string ask(const std::string &request) {
        UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        const sockaddr_un address = address_of(dir + "/s.sock");
        if (connect(fd.get(), reinterpret_cast<const sockaddr *>(&address), sizeof address) != 0)
            return "no engine";
        write_all(fd.get(), request + " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "request");
        return read_all(fd.get(), 4 << 20, "answer");
    }
    int end(int signal) {
        kill(pid, signal);
        int status = 0;
        waitpid(pid, &status, 0);
        pid = -1;
        return status;
    }
};

TEST_F(DaemonTest, life) {
    ASSERT_TRUE(start());
    EXPECT_NE(ask("GET /_ping").find("\r\n\r\nOK"), std::string::npos);
    EXPECT_NE(ask("GET /v1.47/info").find("\"Driver\":\"vfs\""), std::string::npos);
    EXPECT_NE(ask("GET /v1.41/containers/json?all=1").find("\r\n\r\n[]\n"), std::string::npos);
    EXPECT_NE(ask("GET /images/json").find("\r\n\r\n[]\n"), std::string::npos);
    EXPECT_NE(ask("GET /networks").find("\"Name\":\"bridge\""), std::string::npos);
    EXPECT_NE(ask("GET /containers/nosuch/json").find("No such container: nosuch"), std::string::npos);
    EXPECT_NE(ask("GET /images/nosuch/json").find("404 Not Found"), std::string::npos);
    EXPECT_NE(ask("GET /volumes/nosuch").find("get nosuch: no such volume"), std::string::npos);
    EXPECT_NE(ask("GET /gantry/v1/plugins").find("\"Name\":\"vfs\""), std::string::npos);

    std::string text;
    EXPECT_EQ(run({}, text), 1) << "a second engine beside the first";
    EXPECT_NE(text.find("already uses it"), std::string::npos) << text;
    EXPECT_EQ(text.find("gantryd: "), 0u) << text;

    end(SIGKILL);
    ASSERT_TRUE(start()) << "after kill -9";
    EXPECT_NE(ask("GET /_ping").find("200 OK"), std::string::npos);
    const int status = end(SIGTERM);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << read_file(dir + "/log");
    EXPECT_FALSE(path_exists(dir + "/s.sock"));
}

TEST_F(DaemonTest, refuses_a_bad_configuration_in_one_line) {
    std::string text;
    EXPECT_EQ(run({"--check"}, text), 0) << text;
    EXPECT_EQ(run({"--check", "--set", "engine.rooot=/x"}, text), 1);
    EXPECT_EQ(text.find("gantryd: "), 0u) << text;
    EXPECT_NE(text.find("root"), std::string::npos) << text;
    EXPECT_EQ(run({"--set", "storage.driver=nosuch"}, text), 1);
    EXPECT_NE(text.find("nosuch"), std::string::npos) << text;
    EXPECT_EQ(run({"--nonsense"}, text), 1);
}

} // namespace
} // namespace gantry
