// Containers and execs through the real shim: what a user sees of start, streams, signals and ends.
#include "tests/integration/runtime/fixture.h"

#include <csignal>
#include <fstream>
#include <thread>

namespace gantry {

TEST_F(RuntimeTest, RunsAndRecordsExit) {
    auto task = start(spec({"sh", "-c", "echo hello; echo '<err>' >&2; hostname; exit 7"}), extras());
    auto status = task->wait(10000);
    ASSERT_TRUE(status);
    EXPECT_EQ(7, status->code);
    EXPECT_EQ(0, status->signal);
    EXPECT_NE(std::string::npos, log().find(R"({"log":"hello\n","stream":"stdout","time":")")) << log();
    EXPECT_NE(std::string::npos, log().find(R"({"log":"\u003cerr\u003e\n","stream":"stderr")")) << log();
    EXPECT_NE(std::string::npos, log().find("testbox"));
    EXPECT_NE(std::string::npos, read_file(base + "/exit").find("code=7\n"));
    EXPECT_FALSE(cgroup_left("box"));
    EXPECT_EQ(0, task->pid());
}

TEST_F(RuntimeTest, ConfinesTheProcess) {
    auto s = spec(
        {"sh", "-c",
         "echo pid $$; cat /proc/self/status | grep -E 'CapBnd|Seccomp:|NoNewPrivs'; cat /proc/self/cgroup | "
         "head -n 1;"
         "echo x > /proc/sys/kernel/domainname || echo ro; cat /proc/kcore | wc -c; ls /proc/self/fd | wc -l;"
         "mount -t tmpfs x /tmp || echo nomount; touch /rootfile || echo roroot; ls /sys/fs/cgroup | wc -l; "
         "id"});
    s.root_read_only = true;
    s.process.uid = 1000, s.process.gid = 100;
    s.process.additional_gids = {10, 20};
    s.process.no_new_privileges = true;
    auto task = start(s, extras());
    ASSERT_TRUE(task->wait(10000));
    std::string text = log();
    EXPECT_NE(std::string::npos, text.find("pid 1\\n")) << text;
    EXPECT_NE(std::string::npos, text.find("CapBnd:\\t00000000a80425fb")) << text;
    EXPECT_NE(std::string::npos, text.find("Seccomp:\\t2")) << text;
    EXPECT_NE(std::string::npos, text.find("NoNewPrivs:\\t1")) << text;
    EXPECT_NE(std::string::npos, text.find("ro\\n")) << text;
    EXPECT_NE(std::string::npos, text.find("nomount")) << text;
    EXPECT_NE(std::string::npos, text.find("roroot")) << text;
    EXPECT_NE(std::string::npos, text.find("uid=1000 gid=100 groups=10,20")) << text;
    EXPECT_NE(std::string::npos, text.find("{\"log\":\"4\\n\"")) << "descriptors leaked: " << text;
    EXPECT_NE(std::string::npos, text.find(":/\\n")) << "cgroup namespace: " << text;
}

TEST_F(RuntimeTest, SaysWhyACommandCannotStart) {
    auto failure = [&](std::vector<std::string> args) {
        try {
            start(spec(std::move(args)), extras());
        } catch (const Error &error) {
            EXPECT_EQ(ErrorClass::kInvalidArgument, error.error_class());
            EXPECT_FALSE(cgroup_left("box"));
            return error.message();
        }
        return std::string("started");
    };
    EXPECT_EQ("exec: \"nosuch\": executable file not found in $PATH", failure({"nosuch"}));
    EXPECT_EQ("exec: \"/no/such\": stat /no/such: no such file or directory", failure({"/no/such"}));
    EXPECT_EQ("exec: \"/bin/notexec\": permission denied", failure({"/bin/notexec"}));
    EXPECT_EQ("exec: \"/bin\": is a directory", failure({"/bin"}));
}

TEST_F(RuntimeTest, DeliversSignals) {
    auto task =
        start(spec({"sh", "-c", "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.05; done"}),
              extras(), "box");
    while (log().find("ready") == std::string::npos)
        usleep(1000);
    task->kill(SIGTERM);
    EXPECT_EQ(9, task->wait(10000)->code);
    EXPECT_THROW(task->kill(SIGTERM), Error);
    auto second = start(spec({"sleep", "100"}), extras(), "box2");
    second->kill(SIGKILL);
    auto status = second->wait(10000);
    EXPECT_EQ(137, status->code);
    EXPECT_EQ(SIGKILL, status->signal);
    EXPECT_FALSE(status->oom_killed);
}

TEST_F(RuntimeTest, InitForwardsAndReaps) {
    auto e = extras();
    e.init = true;
    auto task = start(spec({"sh", "-c",
                            "(sleep 0.01 &) ; sleep 0.1; ls -d /proc/[0-9]* | wc -l; trap 'exit 5' TERM; "
                            "echo ready; while :; do sleep 0.05; done"}),
                      e);
    while (log().find("ready") == std::string::npos)
        usleep(1000);
    EXPECT_EQ(std::string::npos, log().find("\"log\":\"1\\n\""));
    task->kill(SIGTERM);
    EXPECT_EQ(5, task->wait(10000)->code);
}

TEST_F(RuntimeTest, Passes2MiBOfStdinAndHalfCloses) {
    auto e = extras();
    e.open_stdin = e.stdin_once = true;
    auto [ours, theirs] = connection();
    auto task = start(spec({"sh", "-c", "cat; echo END >&2"}), e, "box", [&](Task &t) {
        t.attach(std::move(theirs), {true, true, true, true, ""});
    });
    std::string data(2u << 20, 'x');
    for (size_t i = 0; i < data.size(); i += 61)
        data[i] = '\n';
    std::thread writer([&, fd = ours.get()] {
        write_all(fd, data, "stdin");
        shutdown(fd, SHUT_WR);
    });
    std::string raw = read_until(ours.get(), ""), out, err;
    writer.join();
    for (size_t at = 0; at + 8 <= raw.size();) {
        size_t n = size_t((unsigned char)raw[at + 4]) << 24 | size_t((unsigned char)raw[at + 5]) << 16 |
                   size_t((unsigned char)raw[at + 6]) << 8 | (unsigned char)raw[at + 7];
        (raw[at] == 1 ? out : err) += raw.substr(at + 8, n);
        at += 8 + n;
    }
    EXPECT_EQ(data, out);
    EXPECT_EQ("END\n", err);
    EXPECT_EQ(0, task->wait(10000)->code);
}

TEST_F(RuntimeTest, SurvivesAClientThatVanishes) {
    auto e = extras();
    e.open_stdin = true;
    auto [ours, theirs] = connection();
    auto [keeper, kept] = connection();
    auto task = start(spec({"sh", "-c", "read a; echo one $a; read b; echo two $b"}), e, "box", [&](Task &t) {
        t.attach(std::move(theirs), {true, true, true, false, ""});
        t.attach(std::move(kept), {true, true, true, false, ""});
    });
    write_all(ours.get(), "A\n", "stdin");
    EXPECT_EQ("one A\n", read_until(keeper.get(), "one A\n"));
    ours.reset();
    write_all(keeper.get(), "B\n", "stdin");
    EXPECT_EQ("two B\n", read_until(keeper.get(), ""));
    EXPECT_EQ(0, task->wait(10000)->code);
}

TEST_F(RuntimeTest, GivesATerminal) {
    auto s = spec({"sh", "-c",
                   "stty size; test -t 0 && echo istty; read x; stty size; ls -l /dev/console; echo got $x"});
    s.process.terminal = true;
    s.process.console_height = 33, s.process.console_width = 77;
    auto e = extras();
    e.open_stdin = true;
    auto [ours, theirs] = connection();
    auto task = start(s, e, "box", [&](Task &t) {
        t.attach(std::move(theirs), {true, true, true, false, std::string("\x10\x11")});
    });
    std::string text = read_until(ours.get(), "istty\r\n");
    EXPECT_NE(std::string::npos, text.find("33 77\r\n")) << text;
    task->resize(40, 100);
    write_all(ours.get(), "word\n", "stdin");
    text = read_until(ours.get(), "");
    EXPECT_NE(std::string::npos, text.find("40 100\r\n")) << text;
    EXPECT_NE(std::string::npos, text.find("got word\r\n")) << text;
    EXPECT_NE(std::string::npos, text.find("/dev/console")) << text;
    EXPECT_EQ(0, task->wait(10000)->code);
}

TEST_F(RuntimeTest, DetachKeysEndTheSessionOnly) {
    auto s = spec({"sh", "-c", "read x; echo got $x"});
    s.process.terminal = true;
    auto e = extras();
    e.open_stdin = true;
    auto [ours, theirs] = connection();
    auto task = start(s, e, "box", [&](Task &t) {
        t.attach(std::move(theirs), {true, true, true, false, std::string("\x10\x11")});
    });
    write_all(ours.get(), "\x10\x11", "stdin");
    EXPECT_EQ("exec attach failed: error on attach stdin: read escape sequence\r\n",
              read_until(ours.get(), ""));
    EXPECT_NE(0, task->pid());
    task->kill(SIGKILL);
    EXPECT_EQ(137, task->wait(10000)->code);
}

TEST_F(RuntimeTest, ExecutesInARunningContainer) {
    auto s = spec({"sleep", "100"});
    auto task = start(s, extras());
    auto run = [&](std::vector<std::string> args, bool terminal) {
        auto p = s;
        p.process.args = std::move(args);
        p.process.terminal = terminal;
        auto [ours, theirs] = connection();
        auto done = runtime->exec(*task, "exec" + random_hex(4), p, {}, [&](Task &t) {
            t.attach(std::move(theirs), {true, true, true, false, ""});
        });
        std::string text = read_until(ours.get(), "");
        return std::pair(text, done->wait(10000)->code);
    };
    auto [text, code] =
        run({"sh", "-c", "hostname; cat /proc/1/cmdline; grep -c . /proc/self/cgroup; exit 4"}, false);
    EXPECT_EQ(4, code);
    EXPECT_EQ(0u, text.find("testbox\n")) << text;
    EXPECT_NE(std::string::npos, text.find("sleep")) << text;
    auto [tty, tty_code] = run({"sh", "-c", "test -t 0 && echo tty; exit 3"}, true);
    EXPECT_EQ("tty\r\n", tty);
    EXPECT_EQ(3, tty_code);
    try {
        run({"nosuch"}, false);
        FAIL();
    } catch (const Error &error) {
        EXPECT_EQ("exec: \"nosuch\": executable file not found in $PATH", error.message());
    }
    EXPECT_EQ(1u, task->pids().size());
    task->kill_all(SIGKILL);
    EXPECT_EQ(137, task->wait(10000)->code);
}

TEST_F(RuntimeTest, ReportsOom) {
    auto s = spec(
        {"sh", "-c",
         "x=$(dd if=/dev/zero bs=1M count=64 | sed s/x/y/ 2>/dev/null | tail -c 60000000); echo survived"});
    s.process.args = {"tail", "/dev/zero"};
    s.resources.memory_limit = 16 << 20;
    s.resources.memory_swap = 16 << 20;
    auto task = start(s, extras());
    auto status = task->wait(30000);
    ASSERT_TRUE(status);
    EXPECT_EQ(137, status->code);
    EXPECT_TRUE(status->oom_killed);
    EXPECT_FALSE(cgroup_left("box"));
}

TEST_F(RuntimeTest, LimitsProcesses) {
    auto s = spec({"sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; echo all"});
    s.resources.pids_limit = 4;
    auto task = start(s, extras());
    auto status = task->wait(20000);
    ASSERT_TRUE(status);
    EXPECT_EQ(std::string::npos, log().find("\"all")) << log();
    EXPECT_NE(std::string::npos, log().find("fork")) << log();
}

TEST_F(RuntimeTest, PausesAndUpdates) {
    auto task = start(spec({"sh", "-c", "while :; do echo tick; sleep 0.01; done"}), extras());
    while (log().find("tick") == std::string::npos)
        usleep(1000);
    task->pause(true);
    auto frozen = log().size();
    usleep(60000);
    EXPECT_EQ(frozen, log().size());
    SpecResources more;
    more.memory_limit = 64 << 20;
    more.pids_limit = 50;
    runtime->update(*task, more);
    task->pause(false);
    while (log().size() == frozen)
        usleep(1000);
    task->kill(SIGKILL);
    EXPECT_TRUE(task->wait(10000));
}

TEST_F(RuntimeTest, AdoptsAfterTheEngineIsGone) {
    auto e = extras();
    auto task = start(spec({"sh", "-c", "trap 'exit 6' TERM; echo ready; while :; do sleep 0.02; done"}), e);
    while (log().find("ready") == std::string::npos)
        usleep(1000);
    pid_t pid = task->pid();
    task.reset();
    runtime.reset();
    runtime = Runtime::make(settings);
    task = runtime->adopt("box", e.exit_path);
    ASSERT_TRUE(task);
    EXPECT_EQ(pid, task->pid());
    EXPECT_TRUE(task->netns());
    task->kill(SIGTERM);
    EXPECT_EQ(6, task->wait(10000)->code);
    task.reset();
    runtime.reset();
    runtime = Runtime::make(settings);
    task = runtime->adopt("box", e.exit_path); // only the record is left
    ASSERT_TRUE(task);
    EXPECT_EQ(6, task->exit_status()->code);
    EXPECT_FALSE(runtime->adopt("other", base + "/none"));
}

TEST_F(RuntimeTest, DroppedSandboxLeavesNothing) {
    {
        auto sandbox = runtime->prepare("warm", {});
        EXPECT_GE(sandbox->netns_fd(), 0);
        EXPECT_GT(sandbox->init_pid(), 0);
    }
    EXPECT_FALSE(cgroup_left("warm"));
    EXPECT_FALSE(path_exists(base + "/run/sandboxes/warm"));
}

TEST_F(RuntimeTest, RootedDestinationsCannotEscape) {
    ASSERT_EQ(0, symlink("/../../../../../../../../../..", (base + "/root/up").c_str()));
    ASSERT_EQ(0, symlink(base.c_str(), (base + "/root/out").c_str()));
    make_directories(base + "/src", 0755);
    auto s = spec({"sh", "-c", "ls /up/made; ls -d " + base + "/bound"});
    write_file_atomically(base + "/src/inside", "", 0644, false);
    s.mounts.push_back({"/up/made", "bind", base + "/src", {"rbind", "ro"}});
    s.mounts.push_back({"/out/bound", "bind", base + "/src", {"rbind"}});
    auto task = start(s, extras());
    ASSERT_TRUE(task->wait(10000));
    EXPECT_NE(std::string::npos, log().find("inside")) << log();
    EXPECT_FALSE(path_exists(base + "/bound"));
    EXPECT_FALSE(path_exists("/made"));
}

TEST_F(RuntimeTest, RotatesLogs) {
    auto e = extras();
    e.log_max_size = 4096, e.log_max_files = 3;
    auto task = start(spec({"sh", "-c", "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done"}), e);
    ASSERT_TRUE(task->wait(20000));
    EXPECT_TRUE(path_exists(base + "/log.json.2"));
    EXPECT_FALSE(path_exists(base + "/log.json.3"));
    EXPECT_LT(read_file(base + "/log.json.1").size(), 4400u);
}

TEST_F(RuntimeTest, RunsThroughRunc) {
    if (access("/usr/sbin/runc", X_OK) != 0) GTEST_SKIP() << "needs runc";
    auto e = extras();
    e.external_runtime = "/usr/sbin/runc";
    e.bundle = base + "/bundle";
    auto s = spec({"sh", "-c", "echo by runc; hostname; exit 3"});
    auto task = start(s, e, "gantry-test-" + random_hex(4));
    auto status = task->wait(20000);
    ASSERT_TRUE(status);
    EXPECT_EQ(3, status->code);
    EXPECT_NE(std::string::npos, log().find("by runc")) << log();
    try {
        start(spec({"nosuch"}), e, "gantry-test-" + random_hex(4));
        FAIL();
    } catch (const Error &error) {
        EXPECT_NE(std::string::npos, error.message().find("executable file not found in $PATH"))
            << error.message();
    }
}

} // namespace gantry
