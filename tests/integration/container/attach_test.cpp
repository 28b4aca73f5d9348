// Attaching while the container is being started by somebody else.
#include "fixture.h"

#include <thread>

namespace gantry {
namespace {

// `docker run` starts the container as soon as it has been told that it is attached: a start that comes right
// then must find the connection, or the first output is lost.
TEST_F(ContainerTest, AStartRightAfterTheAnswerLosesNoOutput) {
    const std::string id = containers().create("", shell("echo early"), "").id;
    int ends[2];
    ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    UniqueFd ours(ends[0]);
    std::thread starter;
    auto accept = [&] {
        starter = std::thread([&] { containers().start(id); });
        std::this_thread::sleep_for(std::chrono::milliseconds(100)); // the race is over in less
        return UniqueFd(ends[1]);
    };
    AttachRequestOptions options;
    options.stdout_ = options.stderr_ = true;
    containers().attach(id, accept, options);
    starter.join();
    EXPECT_NE(read_all(ours.get(), 4096, "output").find("early\n"), std::string::npos);
}

TEST_F(ContainerTest, WhoCannotBeAttachedIsNotAnswered) {
    AttachRequestOptions options;
    bool answered = false;
    auto accept = [&] {
        answered = true;
        return UniqueFd();
    };
    EXPECT_THROW(containers().attach("nobody", accept, options), Error);
    options.detach_keys = "ctrl-";
    EXPECT_THROW(containers().attach(run(shell("sleep 1000")), accept, options), Error);
    EXPECT_FALSE(answered);
}

} // namespace
} // namespace gantry
