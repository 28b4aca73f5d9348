// How containers end, come back, and are changed while they run.
#include "fixture.h"

namespace gantry {
namespace {

TEST_F(ContainerTest, RestartsByPolicyAndStopsWhenToldTo) {
    auto failing = shell("exit 3");
    failing.restart_policy = "on-failure";
    failing.restart_max = 2;
    const std::string id = run(failing);
    EXPECT_EQ(wait(id).status, 3);
    EXPECT_EQ(state(id).restart_count, 2);
    EXPECT_EQ(state(id).status, "exited");

    auto content = shell("exit 0");
    content.restart_policy = "on-failure";
    const std::string good = run(content);
    EXPECT_EQ(wait(good).status, 0);
    EXPECT_EQ(state(good).restart_count, 0);

    auto always = shell("sleep 0.05");
    always.restart_policy = "always";
    const std::string again = run(always);
    ASSERT_TRUE(await([&] { return state(again).restart_count >= 2; }));
    containers().stop(again, 1, "");
    EXPECT_FALSE(state(again).running);
    EXPECT_FALSE(state(again).restarting);
}

TEST_F(ContainerTest, PoliciesHoldAcrossARestartOfTheEngine) {
    auto forever = shell("trap 'exit 0' TERM; while :; do sleep 0.05; done");
    forever.restart_policy = "always";
    run(forever, "always-stopped");
    forever.restart_policy = "unless-stopped";
    run(forever, "unless-stopped");
    run(forever, "unless-died");
    run(forever, "survivor");
    forever.restart_policy = "no";
    run(forever, "no-died");
    containers().stop("always-stopped", 5, "");
    containers().stop("unless-stopped", 5, "");
    const int survivor = state("survivor").pid;
    const std::vector<int> dying{state("unless-died").pid, state("no-died").pid};
    const std::vector<std::string> records{
        engine.config.root + "/containers/" + containers().inspect("unless-died").id + "/exit",
        engine.config.root + "/containers/" + containers().inspect("no-died").id + "/exit"};
    engine.close();
    for (size_t i = 0; i < dying.size(); i++) {
        kill(dying[i], SIGKILL);
        ASSERT_TRUE(await([&] { return path_exists(records[i]); }));
    }
    engine.open();
    EXPECT_EQ(state("survivor").pid, survivor);
    ASSERT_TRUE(await([&] { return state("always-stopped").pid > 0; }));
    ASSERT_TRUE(await([&] { return state("unless-died").pid > 0; }));
    EXPECT_EQ(state("unless-stopped").status, "exited");
    EXPECT_EQ(state("no-died").status, "exited");
    EXPECT_EQ(state("no-died").exit_code, 137);
}

TEST_F(ContainerTest, AContainerThatCannotBeReachedLivesOn) {
    const std::string id = run(shell("sleep 1000"));
    const int pid = state(id).pid;
    const pid_t shim = parent_of(pid);
    ASSERT_GT(shim, 1);
    engine.close();
    ASSERT_EQ(0, kill(shim, SIGSTOP));
    engine.open();
    EXPECT_TRUE(state(id).running);
    EXPECT_NE(state(id).error.find("reach the shim"), std::string::npos) << state(id).error;
    try {
        containers().stop(id, 0, "");
        ADD_FAILURE() << "stopped what it cannot reach";
    } catch (const Error &error) {
        EXPECT_EQ(error.error_class(), ErrorClass::kUnavailable) << error.message();
    }
    EXPECT_EQ(0, kill(pid, 0));
    ASSERT_EQ(0, kill(shim, SIGCONT));
    ASSERT_TRUE(await([&] { return state(id).pid == pid; }));
    EXPECT_EQ(state(id).error, "");
    EXPECT_EQ(exec(id, "echo back").second, "back\r\n");
    containers().kill(id, "KILL");
    EXPECT_EQ(wait(id).status, 137);
}

TEST_F(ContainerTest, AutoRemoveHoldsThoughTheEngineWasAway) {
    auto config = shell("sleep 1000");
    config.auto_remove = true;
    const std::string id = run(config, "fleeting");
    const int pid = state(id).pid;
    const std::string dir = engine.config.root + "/containers/" + id;
    engine.close();
    kill(pid, SIGKILL);
    ASSERT_TRUE(await([&] { return path_exists(dir + "/exit"); }));
    engine.open();
    EXPECT_THROW(containers().inspect("fleeting"), Error);
    EXPECT_FALSE(path_exists(dir));
}

TEST_F(ContainerTest, StopSendsItsSignalThenKills) {
    auto polite = shell("trap 'exit 7' USR1; echo ready; while :; do sleep 0.02; done");
    polite.stop_signal = "SIGUSR1";
    const std::string id = run(polite);
    ASSERT_TRUE(await([&] { return log(id) == "ready\n"; }));
    containers().stop(id, 10, "");
    EXPECT_EQ(state(id).exit_code, 7);

    auto deaf = shell("trap '' TERM; echo ready; while :; do sleep 0.02; done");
    deaf.stop_timeout = 1;
    const std::string stubborn = run(deaf);
    ASSERT_TRUE(await([&] { return log(stubborn) == "ready\n"; }));
    const auto before = std::chrono::steady_clock::now();
    containers().stop(stubborn, std::nullopt, "");
    EXPECT_GE(std::chrono::steady_clock::now() - before, std::chrono::milliseconds(900));
    EXPECT_EQ(state(stubborn).exit_code, 137);
}

TEST_F(ContainerTest, WaitKnowsNextExitAndRemoved) {
    auto config = shell("sleep 0.1; exit 4");
    config.restart_policy = "always";
    const std::string id = run(config);
    EXPECT_EQ(wait(id, WaitCondition::kNextExit).status, 4);
    EXPECT_EQ(wait(id, WaitCondition::kNextExit).status, 4) << "the next run's";
    std::promise<WaitResult> removed;
    auto handle = containers().wait(id, WaitCondition::kRemoved,
                                    [&](const WaitResult &result) { removed.set_value(result); });
    auto future = removed.get_future();
    containers().stop(id, 0, "");
    EXPECT_EQ(future.wait_for(std::chrono::milliseconds(0)), std::future_status::timeout);
    containers().remove(id, false, true);
    EXPECT_EQ(future.wait_for(std::chrono::seconds(10)), std::future_status::ready);
}

TEST_F(ContainerTest, RenameWhileRunningLasts) {
    const std::string id = run(shell("sleep 1000"), "first");
    containers().rename("first", "second");
    EXPECT_EQ(containers().inspect("second").id, id);
    EXPECT_THROW(containers().inspect("first"), Error);
    run(shell("true"), "first"); // the old name is free
    EXPECT_THROW(containers().rename("first", "second"), Error);
    engine.close();
    engine.open();
    EXPECT_EQ(containers().inspect("second").id, id);
    EXPECT_TRUE(state("second").running);
}

TEST_F(ContainerTest, UpdateReachesTheRunningCgroupAndTheRecord) {
    auto config = shell("sleep 1000");
    config.memory = 64 << 20;
    const std::string id = run(config);
    ContainerConfig change;
    change.restart_policy = "";
    change.memory = 128 << 20;
    change.memory_swap = 256 << 20;
    change.nano_cpus = 500000000;
    containers().update(id, change);
    EXPECT_EQ(std::stoll(cgroup_file(id, "memory.limit_in_bytes", "memory.max")), 128 << 20);
    EXPECT_EQ(std::stoll(cgroup_file(id, "cpu.cfs_quota_us", "cpu.max")), 50000);
    ContainerConfig policy;
    policy.restart_policy = "always";
    containers().update(id, policy);
    kill(state(id).pid, SIGKILL);
    ASSERT_TRUE(await([&] { return state(id).restart_count == 1 && state(id).pid > 0; }));
    EXPECT_EQ(std::stoll(cgroup_file(id, "memory.limit_in_bytes", "memory.max")), 128 << 20);
}

TEST_F(ContainerTest, OutOfMemoryIsReportedAsSuch) {
    auto greedy = shell("exec tail /dev/zero");
    greedy.memory = greedy.memory_swap = 8 << 20;
    const std::string id = run(greedy);
    EXPECT_EQ(wait(id).status, 137);
    EXPECT_TRUE(state(id).oom_killed);
    const std::string other = run(shell("sleep 1000"));
    containers().kill(other, "KILL");
    EXPECT_EQ(wait(other).status, 137);
    EXPECT_FALSE(state(other).oom_killed);
}

TEST_F(ContainerTest, InitReapsOrphans) {
    for (const bool init : {false, true}) {
        ContainerConfig config = shell("");
        config.cmd = {"sleep", "1000"};
        config.init = init;
        const std::string id = run(config);
        exec(id, "(sleep 0 &)"); // its parent is gone at once, so it becomes a child of pid 1
        const auto zombies = [&] { return exec(id, "grep -l 'State:.Z' /proc/[0-9]*/status").second; };
        if (init)
            EXPECT_TRUE(await([&] { return zombies().empty(); }));
        else
            EXPECT_TRUE(await([&] { return !zombies().empty(); })) << "the test would see nothing";
        containers().remove(id, true, true);
    }
}

TEST_F(ContainerTest, LogsRotate) {
    auto config = shell("seq 1 3000");
    config.log_options = {{"max-size", "8k"}, {"max-file", "2"}};
    const std::string id = run(config);
    EXPECT_EQ(wait(id).status, 0);
    const std::string path = containers().inspect(id).log_path;
    EXPECT_TRUE(path_exists(path + ".1"));
    EXPECT_FALSE(path_exists(path + ".2"));
    EXPECT_LT(read_file(path).size() + read_file(path + ".1").size(), 18000u);
    const std::string text = log(id);
    EXPECT_TRUE(text.ends_with("\n2999\n3000\n")) << text.substr(text.size() - 50);
    int expected = std::stoi(text);
    std::istringstream lines(text);
    for (int line; lines >> line; ++expected)
        ASSERT_EQ(line, expected);
    EXPECT_EQ(expected, 3001);
}

TEST_F(ContainerTest, HealthIsJudgedLoggedAndTold) {
    auto config = shell("sleep 1000");
    config.healthcheck.emplace();
    config.healthcheck->test = {"CMD-SHELL", "echo looking; test -f /tmp/well"};
    config.healthcheck->interval_ns = 20'000'000;
    config.healthcheck->retries = 2;
    auto events = engine.events->subscribe(0);
    const std::string id = run(config);
    EXPECT_EQ(state(id).health, "starting");
    ASSERT_TRUE(await([&] { return state(id).health == "unhealthy"; }));
    EXPECT_GE(state(id).health_failures, 2);
    exec(id, "touch /tmp/well");
    ASSERT_TRUE(await([&] { return state(id).health == "healthy"; }));
    ASSERT_TRUE(await([&] {
        const auto log = state(id).health_log;
        return log.size() == 5 && log.front().exit_code == 0;
    }));
    const auto last = state(id).health_log.back();
    EXPECT_EQ(last.output, "looking\n");
    EXPECT_GE(last.end_ns, last.start_ns);
    std::string told;
    for (Event event; events->next(event, 0);)
        if (event.action.starts_with("health_status")) told += event.action + ";";
    EXPECT_EQ(told, "health_status: unhealthy;health_status: healthy;");
    EXPECT_EQ(list_directory(engine.config.root + "/containers/" + id).size() < 8, true);
}

TEST_F(ContainerTest, AProbeThatHangsIsEndedWithItsChildren) {
    auto config = shell("sleep 1000");
    config.healthcheck.emplace();
    config.healthcheck->test = {"CMD-SHELL", "sleep 777 & echo $!; sleep 777"};
    config.healthcheck->interval_ns = 20'000'000;
    config.healthcheck->timeout_ns = 200'000'000;
    config.healthcheck->retries = 1;
    const std::string id = run(config);
    ASSERT_TRUE(await([&] { return state(id).health == "unhealthy"; }));
    const auto first = state(id).health_log.front();
    EXPECT_EQ(first.exit_code, -1);
    EXPECT_NE(first.output.find("exceeded timeout (200ms)"), std::string::npos) << first.output;
    const auto colon = first.output.rfind(": ");
    ASSERT_NE(colon, first.output.npos);
    const std::string child = std::to_string(std::stoi(first.output.substr(colon + 2)));
    // Pid 1 here reaps nobody: a zombie is dead enough.
    EXPECT_NE(exec(id, "grep -q 'State:.[SRD]' /proc/" + child + "/status").first, 0) << "its child lives";
}

} // namespace
} // namespace gantry
