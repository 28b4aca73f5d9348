// The same containers through runc: what an external runtime has to be given that the shim does itself.
#include "fixture.h"

namespace gantry {
namespace {

struct ExternalTest : RuntimeTest {
    std::string runc;
    void SetUp() override {
        for (const char *path : {"/usr/sbin/runc", "/usr/bin/runc"})
            if (access(path, X_OK) == 0) runc = path;
        if (runc.empty()) GTEST_SKIP() << "runc is not installed";
        RuntimeTest::SetUp();
    }
    StartExtras external() {
        StartExtras e = extras();
        e.external_runtime = runc;
        // Longer than the address of a unix socket may be.
        e.bundle = base + "/" + std::string(120, 'b');
        return e;
    }
};

TEST_F(ExternalTest, ATerminalIsHandedOverSizedAndResized) {
    RuntimeSpec s = spec({"sh"});
    s.process.terminal = true;
    s.process.console_height = 33, s.process.console_width = 111;
    StartExtras e = external();
    e.open_stdin = true;
    auto [ours, theirs] = connection();
    AttachOptions options;
    options.stdin_ = options.stdout_ = true, options.multiplexed = false;
    auto task =
        start(s, e, "gantry-test-" + random_hex(4), [&](Task &t) { t.attach(std::move(theirs), options); });
    write_all(ours.get(), "stty size; echo en\"\"d1\n", "input");
    EXPECT_NE(read_until(ours.get(), "end1").find("33 111"), std::string::npos);
    task->resize(44, 122);
    write_all(ours.get(), "stty size; echo en\"\"d2\n", "input");
    EXPECT_NE(read_until(ours.get(), "end2").find("44 122"), std::string::npos);
    write_all(ours.get(), "exit 5\n", "input");
    auto status = task->wait(20000);
    ASSERT_TRUE(status);
    EXPECT_EQ(status->code, 5);
}

TEST_F(ExternalTest, InitIsProcessOneAndPassesOnTheEnd) {
    RuntimeSpec s = spec({"sh", "-c", "echo pid $$; kill -TERM 1; sleep 100"});
    StartExtras e = external();
    e.init = true;
    auto task = start(s, e, "gantry-test-" + random_hex(4));
    auto status = task->wait(20000);
    ASSERT_TRUE(status);
    EXPECT_EQ(status->code, 143) << "what process 1 got, the program got";
    EXPECT_EQ(log().find("pid 1\\n"), std::string::npos) << log();
}

TEST_F(ExternalTest, GivesAReasonInItsOwnWords) {
    try {
        start(spec({"nosuch"}), external(), "gantry-test-" + random_hex(4));
        ADD_FAILURE() << "started what is not there";
    } catch (const Error &error) {
        EXPECT_NE(error.message().find("exec: \"nosuch\": executable file not found in $PATH"),
                  std::string::npos)
            << error.message();
        EXPECT_EQ(error.message().find("level="), std::string::npos) << error.message();
    }
    // Capabilities that the engine lacks are left out, as the native runtime does.
    RuntimeSpec s = spec({"true"});
    s.process.capabilities = all_capabilities();
    auto task = start(s, external(), "gantry-test-" + random_hex(4));
    auto status = task->wait(20000);
    ASSERT_TRUE(status);
    EXPECT_EQ(status->code, 0);
}

} // namespace
} // namespace gantry
