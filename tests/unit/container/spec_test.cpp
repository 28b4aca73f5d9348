// The OCI document against what dockerd 20.10 writes.
#include "core/container/spec_builder.h"

#include <gantry/error.hpp>
#include <gtest/gtest.h>

#include <algorithm>

namespace gantry {
namespace {

const std::string kId = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

RuntimeSpec build(ContainerConfig &config, const ImageConfig &image = {}) {
    merge_image(config, image);
    SpecInput input;
    input.id = kId;
    input.config = &config;
    input.hosts_path = "/state/hosts";
    input.resolv_conf_path = "/state/resolv.conf";
    input.hostname_path = "/state/hostname";
    input.cgroup_parent = "/gantry";
    input.user.home = "/root";
    return build_spec(input);
}

const SpecMount *mount_at(const RuntimeSpec &spec, const std::string &path) {
    for (const auto &mount : spec.mounts) {
        if (mount.destination == path) return &mount;
    }
    return nullptr;
}
bool has(const std::vector<std::string> &list, const std::string &item) {
    return std::find(list.begin(), list.end(), item) != list.end();
}

TEST(Spec, DefaultContainer) {
    ContainerConfig c;
    ImageConfig image;
    image.env = {"PATH=/bin", "LANG=C"};
    image.entrypoint = {"/entry"};
    image.cmd = {"arg"};
    image.working_dir = "/srv";
    const RuntimeSpec spec = build(c, image);
    EXPECT_EQ(spec.process.args, (std::vector<std::string>{"/entry", "arg"}));
    EXPECT_EQ(spec.process.env,
              (std::vector<std::string>{"PATH=/bin", "HOSTNAME=0123456789ab", "LANG=C", "HOME=/root"}));
    EXPECT_EQ(spec.process.cwd, "/srv");
    EXPECT_EQ(spec.process.capabilities.size(), 14u);
    EXPECT_EQ(spec.hostname, "0123456789ab");
    EXPECT_TRUE(spec.seccomp.has_value());
    EXPECT_FALSE(spec.root_read_only);
    EXPECT_EQ(spec.namespaces.size(), 6u);
    EXPECT_EQ(spec.cgroups_path, "/gantry/" + kId);
    for (const char *path : {"/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm",
                             "/etc/hosts", "/etc/resolv.conf", "/etc/hostname"}) {
        EXPECT_NE(mount_at(spec, path), nullptr) << path;
    }
    EXPECT_TRUE(has(mount_at(spec, "/sys")->options, "ro"));
    EXPECT_TRUE(has(mount_at(spec, "/dev/shm")->options, "size=67108864"));
    EXPECT_TRUE(has(spec.masked_paths, "/proc/kcore"));
    ASSERT_FALSE(spec.resources.devices.empty());
    EXPECT_FALSE(spec.resources.devices[0].allow);
    EXPECT_EQ(spec.resources.devices[0].type, 'a');
}

TEST(Spec, CommandMerge) {
    ImageConfig image;
    image.entrypoint = {"/entry"};
    image.cmd = {"arg"};
    ContainerConfig own;
    own.cmd = {"x"};
    EXPECT_EQ(build(own, image).process.args, (std::vector<std::string>{"/entry", "x"}));
    ContainerConfig entry; // an own entry point does away with the image's arguments
    entry.entrypoint = {"sh"};
    entry.entrypoint_set = true;
    EXPECT_EQ(build(entry, image).process.args, std::vector<std::string>{"sh"});
    ContainerConfig reset;
    reset.entrypoint = {""};
    reset.entrypoint_set = true;
    reset.cmd = {"id"};
    EXPECT_EQ(build(reset, image).process.args, std::vector<std::string>{"id"});
    ContainerConfig none;
    EXPECT_THROW(build(none), Error);
}

TEST(Spec, Privileged) {
    ContainerConfig c;
    c.cmd = {"sh"};
    c.privileged = true;
    const RuntimeSpec spec = build(c);
    EXPECT_EQ(spec.process.capabilities, all_capabilities());
    EXPECT_FALSE(spec.seccomp.has_value());
    EXPECT_TRUE(spec.masked_paths.empty());
    EXPECT_TRUE(has(mount_at(spec, "/sys")->options, "rw"));
    EXPECT_TRUE(spec.resources.devices[0].allow);
    EXPECT_FALSE(spec.devices.empty());
}

TEST(Spec, Capabilities) {
    EXPECT_EQ(merge_capabilities({}, {"ALL"}, false).size(), 0u);
    EXPECT_EQ(merge_capabilities({"net_admin"}, {"all"}, false), std::vector<std::string>{"CAP_NET_ADMIN"});
    EXPECT_FALSE(has(merge_capabilities({"ALL"}, {"CAP_SYS_ADMIN"}, false), "CAP_SYS_ADMIN"));
    EXPECT_FALSE(has(merge_capabilities({}, {"CHOWN"}, false), "CAP_CHOWN"));
    EXPECT_THROW(merge_capabilities({"NOPE"}, {}, false), Error);
}

TEST(Spec, ModesAndJoins) {
    ContainerConfig c;
    c.cmd = {"sh"};
    c.network_mode = "host";
    c.pid_mode = "host";
    c.cgroupns_mode = "host";
    const auto spec = build(c);
    for (const auto &ns : spec.namespaces)
        EXPECT_TRUE(ns.type != "network" && ns.type != "pid" && ns.type != "cgroup");
    EXPECT_EQ(spec.sysctl.count("net.ipv4.ip_unprivileged_port_start"), 0u);
    SpecInput input;
    c.network_mode = "container:abc";
    input.config = &c;
    input.network_path = "/proc/7/ns/net";
    const auto list = namespaces_of(input);
    EXPECT_TRUE(std::any_of(list.begin(), list.end(),
                            [](const auto &n) { return n.type == "network" && n.path == "/proc/7/ns/net"; }));
}

TEST(Spec, UserMountsReplaceDefaults) {
    ContainerConfig c;
    c.cmd = {"sh"};
    MountRequest tmpfs;
    tmpfs.type = "tmpfs";
    tmpfs.target = "/dev/shm";
    tmpfs.tmpfs_options = "size=1m,exec";
    tmpfs.from_bind = true;
    c.mounts = {tmpfs};
    const auto spec = build(c);
    EXPECT_EQ(std::count_if(spec.mounts.begin(), spec.mounts.end(),
                            [](const auto &m) { return m.destination == "/dev/shm"; }),
              1);
    EXPECT_FALSE(has(mount_at(spec, "/dev/shm")->options, "noexec"));
    EXPECT_TRUE(has(mount_at(spec, "/dev/shm")->options, "size=1m"));
}

TEST(Spec, Resources) {
    ContainerConfig c;
    c.memory = 64 << 20;
    c.nano_cpus = 500000000;
    c.pids_limit = 0;
    const auto r = build_resources(c);
    EXPECT_EQ(*r.memory_swap, 128 << 20);
    EXPECT_EQ(*r.cpu_quota, 50000);
    EXPECT_EQ(*r.cpu_period, 100000);
    EXPECT_FALSE(r.pids_limit.has_value());
}

TEST(Spec, Exec) {
    ContainerConfig c;
    c.cmd = {"sh"};
    c.env = {"A=1"};
    RuntimeSpec spec = build(c);
    ExecConfig exec;
    exec.cmd = {"id"};
    exec.env = {"A=2"};
    exec.tty = true;
    UserIds user;
    user.uid = 5;
    user.home = "/h";
    apply_exec(spec, c, exec, user);
    EXPECT_EQ(spec.process.args, std::vector<std::string>{"id"});
    EXPECT_TRUE(has(spec.process.env, "A=2"));
    EXPECT_TRUE(has(spec.process.env, "TERM=xterm"));
    EXPECT_TRUE(has(spec.process.env, "HOME=/h"));
    EXPECT_FALSE(has(spec.process.env, "HOME=/root"));
    EXPECT_EQ(spec.process.uid, 5u);
}

} // namespace
} // namespace gantry
