// What containers share with each other and with the host: files, namespaces, names, connections.
#include "fixture.h"

namespace gantry {
namespace {

TEST_F(ContainerTest, VolumesFromAnother) {
    auto donor = shell("echo from donor > /data/file; sleep 1000");
    donor.volumes = {"/data"};
    const std::string first = run(donor, "donor");
    ASSERT_TRUE(await([&] { return exec(first, "cat /data/file").second == "from donor\r\n"; }));
    auto reader = shell("cat /data/file; echo x > /data/other");
    reader.volumes_from = {"donor:ro"};
    const std::string id = run(reader);
    EXPECT_EQ(wait(id).status, 1) << "wrote to a read-only volume";
    EXPECT_EQ(log(id).substr(0, 11), "from donor\n");
    reader.volumes_from = {"donor"};
    EXPECT_EQ(wait(run(reader)).status, 0);
}

TEST_F(ContainerTest, HostsAndHostNames) {
    auto config = shell("hostname; cat /etc/hosts; sleep 1000");
    config.network_mode = "default";
    config.hostname = "box";
    config.domainname = "example.org";
    config.extra_hosts = {"gateway:host-gateway", "far:192.0.2.7"};
    const std::string id = run(config);
    ASSERT_TRUE(await([&] { return log(id).find("192.0.2.7\tfar\n") != std::string::npos; }));
    const std::string text = log(id);
    EXPECT_TRUE(text.starts_with("box\n")) << text;
    EXPECT_NE(text.find("10.88.7.1\tgateway\n"), std::string::npos) << text;
    const std::string address = containers().inspect(id).endpoints.at(0).info.ipv4;
    EXPECT_NE(text.find(address + "\tbox.example.org box\n"), std::string::npos) << text;
    containers().restart(id, 0, "");
    ASSERT_TRUE(await([&] { return exec(id, "cat /etc/hostname").second == "box\r\n"; }));
}

TEST_F(ContainerTest, SharedMemoryIsSharedOnlyWhenAsked) {
    auto donor = shell("echo shared > /dev/shm/note; sleep 1000");
    donor.ipc_mode = "shareable";
    donor.shm_size = 1 << 20;
    const std::string first = run(donor, "donor");
    auto joiner = shell("cat /dev/shm/note; echo answer > /dev/shm/answer; sleep 1000");
    joiner.ipc_mode = "container:donor";
    ASSERT_TRUE(await([&] { return exec(first, "cat /dev/shm/note").second == "shared\r\n"; }));
    const std::string second = run(joiner);
    EXPECT_TRUE(await([&] { return exec(first, "cat /dev/shm/answer").second == "answer\r\n"; }));
    EXPECT_EQ(log(second), "shared\n");
    EXPECT_NE(exec(first, "mount | grep /dev/shm").second.find("size=1024k"), std::string::npos);
    // A restarted engine still knows it; the end of the donor leaves nothing mounted.
    engine.close();
    engine.open();
    EXPECT_EQ(exec(second, "cat /dev/shm/note").second, "shared\r\n");
    containers().remove(first, true, true);
    EXPECT_TRUE(list_directory(engine.config.run + "/shm").empty());
    EXPECT_EQ(exec(second, "cat /dev/shm/note").second, "shared\r\n");

    run(shell("sleep 1000"), "private");
    joiner.ipc_mode = "container:private";
    const std::string refused = containers().create("", joiner, "").id;
    try {
        containers().start(refused);
        ADD_FAILURE() << "joined a private IPC";
    } catch (const Error &error) {
        EXPECT_NE(error.message().find("non-shareable"), std::string::npos) << error.message();
    }
}

TEST_F(ContainerTest, AStoppedContainerOutlivesItsImage) {
    const std::string id = run(shell("echo ran"));
    wait(id);
    const std::string image = containers().inspect(id).image_id;
    EXPECT_THROW(engine.images->remove("bb", false, true), Error);
    engine.images->remove("bb", true, true);
    EXPECT_TRUE(engine.images->list().empty());
    engine.close();
    engine.open();
    EXPECT_EQ(containers().inspect(id).image_id, image);
    containers().start(id);
    EXPECT_EQ(wait(id).status, 0);
    EXPECT_EQ(log(id), "ran\nran\n");
    containers().remove(id, false, true);
    engine.close();
    engine.open();
    int64_t left = -1;
    engine.db->transact([&](Db &d) {
        auto rows = d.prepare("SELECT count(*) FROM layer");
        if (rows.step()) left = rows.integer(0);
    });
    EXPECT_EQ(left, 0) << "its layers went with it";
}

TEST_F(ContainerTest, JoinsProcessesAndHostNames) {
    run(shell("exec sleep 777"), "donor");
    auto joiner = shell("ps");
    joiner.pid_mode = "container:donor";
    const std::string id = run(joiner);
    EXPECT_EQ(wait(id).status, 0);
    EXPECT_NE(log(id).find("sleep 777"), std::string::npos) << log(id);
    auto host = shell("hostname");
    host.uts_mode = "host";
    host.pid_mode = "host";
    host.cgroupns_mode = "host";
    const std::string other = run(host);
    EXPECT_EQ(wait(other).status, 0);
    char name[256] = {};
    gethostname(name, sizeof name - 1);
    EXPECT_EQ(log(other), std::string(name) + "\n");
}

TEST_F(ContainerTest, KeysDetachOnATerminalWithoutBeingNamed) {
    auto config = shell("cat");
    config.tty = config.open_stdin = true;
    const std::string id = run(config);
    int ends[2];
    ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    UniqueFd ours(ends[0]);
    AttachRequestOptions options;
    options.stdin_ = options.stdout_ = options.stderr_ = true;
    containers().attach(id, UniqueFd(ends[1]), options);
    write_all(ours.get(), "\x10\x11", "keys");
    EXPECT_NE(read_all(ours.get(), 4096, "terminal").find("read escape sequence"), std::string::npos);
    EXPECT_TRUE(state(id).running);
}

TEST_F(ContainerTest, AnExecThatEndedIsNeverSeenRunning) {
    const std::string id = run(shell("sleep 1000"));
    for (int i = 0; i < 20; i++)
        ASSERT_EQ(exec(id, "exit " + std::to_string(i)).first, i);
}

TEST_F(ContainerTest, AnExecOutlivesTheEngine) {
    const std::string id = run(shell("sleep 1000"));
    ExecConfig config;
    config.cmd = {"sh", "-c", "cat /tmp/pipe; echo done"};
    config.attach_stdin = config.attach_stdout = config.tty = true;
    config.cmd = {"cat"};
    int ends[2];
    ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    UniqueFd ours(ends[0]);
    containers().exec_start(containers().exec_create(id, config), UniqueFd(ends[1]), false, 0, 0);
    engine.close();
    engine.open();
    write_all(ours.get(), "still here\n\x04", "input");
    EXPECT_EQ(read_all(ours.get(), 4096, "terminal"), "still here\r\nstill here\r\n");
}

TEST_F(ContainerTest, AWarmSandboxSeesWhatTheHostMountsLater) {
    engine.close();
    engine.config.warm_sandboxes = 1;
    engine.open();
    // The first start with network none asks for one to be kept; the second takes it.
    EXPECT_EQ(wait(run(shell("true"))).status, 0);
    const std::string sandboxes = engine.config.run + "/sandboxes";
    ASSERT_TRUE(await([&] { return list_directory(sandboxes).size() == 2; })) << "bridge and none";
    make_directories(base + "/late", 0755);
    ASSERT_EQ(0, mount("late", (base + "/late").c_str(), "tmpfs", 0, nullptr));
    write_file_atomically(base + "/late/file", "mounted later\n", 0644, false);
    auto config = shell("cat /late/file");
    MountRequest bind;
    bind.type = "bind", bind.source = base + "/late", bind.target = "/late";
    config.mounts = {bind};
    for (const char *network : {"none", "default"}) {
        config.network_mode = network;
        const auto before = list_directory(sandboxes);
        const std::string id = containers().create("", config, "").id;
        containers().start(id);
        EXPECT_EQ(wait(id).status, 0);
        EXPECT_EQ(log(id), "mounted later\n") << network;
    }
    EXPECT_EQ(0, umount((base + "/late").c_str())) << strerror(errno);
}

} // namespace
} // namespace gantry
