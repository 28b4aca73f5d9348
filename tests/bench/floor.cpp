// What the kernel alone needs for a container start, as the floor that the engine is held against: six
// namespaces, an overlay of five layers, the usual mounts, capabilities, seccomp, cgroups, a veth pair on a
// bridge with its addresses, execve of `true`, and everything taken down again. No daemon, no database, no
// client, no log, nothing prepared beforehand. Runs as root in a network and mount namespace of its own.
//
//   floor DIR CGROUP ROUNDS PAUSE_MS [none]     prints the median ms until execve and until all is gone;
//                                               DIR/rootfs holds bin/true, CGROUP is below each hierarchy
#include <algorithm>
#include <arpa/inet.h>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <sstream>
#include <string>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include <linux/capability.h>

namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void die(const std::string &what) {
    std::fprintf(stderr, "floor: %s: %s\n", what.c_str(), std::strerror(errno));
    std::_Exit(1);
}
void must(long result, const std::string &what) {
    if (result < 0) die(what);
}

// One rtnetlink request; attributes nest by hand.
class Netlink {
  public:
    Netlink() : fd_(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)) { must(fd_, "netlink"); }
    ~Netlink() { ::close(fd_); }
    template <typename Header> void begin(int type, int flags, const Header &header) {
        std::memset(buffer_, 0, sizeof buffer_);
        head()->nlmsg_len = NLMSG_LENGTH(sizeof header);
        head()->nlmsg_type = static_cast<uint16_t>(type);
        head()->nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | NLM_F_ACK | flags);
        std::memcpy(NLMSG_DATA(head()), &header, sizeof header);
    }
    rtattr *open(int type) {
        auto *attribute = reinterpret_cast<rtattr *>(buffer_ + NLMSG_ALIGN(head()->nlmsg_len));
        attribute->rta_type = static_cast<uint16_t>(type);
        attribute->rta_len = RTA_LENGTH(0);
        head()->nlmsg_len = NLMSG_ALIGN(head()->nlmsg_len) + RTA_LENGTH(0);
        return attribute;
    }
    void close(rtattr *attribute) {
        attribute->rta_len =
            static_cast<uint16_t>(buffer_ + head()->nlmsg_len - reinterpret_cast<char *>(attribute));
    }
    void put(int type, const void *data, size_t size) {
        rtattr *attribute = open(type);
        append(data, size);
        close(attribute);
    }
    void put(int type, uint32_t value) { put(type, &value, sizeof value); }
    void put(int type, const std::string &text) { put(type, text.c_str(), text.size() + 1); }
    void append(const void *data, size_t size) {
        std::memcpy(buffer_ + head()->nlmsg_len, data, size);
        head()->nlmsg_len += static_cast<uint32_t>(NLMSG_ALIGN(size));
    }
    void send(const char *what) {
        must(::send(fd_, buffer_, head()->nlmsg_len, 0), what);
        char answer[4096];
        const ssize_t n = ::recv(fd_, answer, sizeof answer, 0);
        must(n, what);
        const auto *error = static_cast<nlmsgerr *>(NLMSG_DATA(reinterpret_cast<nlmsghdr *>(answer)));
        if (error->error != 0) {
            errno = -error->error;
            die(what);
        }
    }

  private:
    nlmsghdr *head() { return reinterpret_cast<nlmsghdr *>(buffer_); }
    alignas(8) char buffer_[4096];
    int fd_;
};

constexpr int kCreate = NLM_F_CREATE | NLM_F_EXCL;
constexpr char kBridge[] = "floor0";

void set_up(Netlink &net, unsigned index) {
    ifinfomsg link{};
    link.ifi_index = static_cast<int>(index);
    link.ifi_flags = link.ifi_change = IFF_UP;
    net.begin(RTM_NEWLINK, 0, link);
    net.send("link up");
}
void add_address(Netlink &net, unsigned index, const char *text) {
    ifaddrmsg address{AF_INET, 16, 0, RT_SCOPE_UNIVERSE, index};
    in_addr ip{};
    ::inet_pton(AF_INET, text, &ip);
    net.begin(RTM_NEWADDR, kCreate, address);
    net.put(IFA_LOCAL, &ip, sizeof ip);
    net.put(IFA_ADDRESS, &ip, sizeof ip);
    net.send("address");
}
// Stays for the next run in the same namespace.
unsigned make_bridge() {
    if (const unsigned index = ::if_nametoindex(kBridge)) return index;
    Netlink net;
    net.begin(RTM_NEWLINK, kCreate, ifinfomsg{});
    net.put(IFLA_IFNAME, kBridge);
    rtattr *info = net.open(IFLA_LINKINFO);
    net.put(IFLA_INFO_KIND, std::string("bridge"));
    net.close(info);
    net.send("bridge");
    const unsigned index = ::if_nametoindex(kBridge);
    add_address(net, index, "10.66.0.1");
    set_up(net, index);
    return index;
}
// Peer, name, namespace, master and state in one message: moving an end later costs 31 ms.
void make_veth(unsigned bridge, int namespace_fd, int number) {
    Netlink net;
    ifinfomsg link{};
    link.ifi_flags = link.ifi_change = IFF_UP;
    net.begin(RTM_NEWLINK, kCreate, link);
    net.put(IFLA_IFNAME, "fv" + std::to_string(number));
    net.put(IFLA_MASTER, bridge);
    rtattr *info = net.open(IFLA_LINKINFO);
    net.put(IFLA_INFO_KIND, std::string("veth"));
    rtattr *data = net.open(IFLA_INFO_DATA);
    rtattr *peer = net.open(VETH_INFO_PEER);
    link = {}; // a veth comes up only once it has its peer
    net.append(&link, sizeof link);
    net.put(IFLA_IFNAME, std::string("eth0"));
    net.put(IFLA_NET_NS_FD, static_cast<uint32_t>(namespace_fd));
    net.close(peer);
    net.close(data);
    net.close(info);
    net.send("veth");
}
void set_network() { // within the container
    Netlink net;
    const unsigned index = ::if_nametoindex("eth0");
    set_up(net, 1);
    set_up(net, index);
    add_address(net, index, "10.66.0.2");
    rtmsg route{};
    route.rtm_family = AF_INET;
    route.rtm_table = RT_TABLE_MAIN;
    route.rtm_protocol = RTPROT_BOOT;
    route.rtm_type = RTN_UNICAST;
    in_addr gateway{};
    ::inet_pton(AF_INET, "10.66.0.1", &gateway);
    net.begin(RTM_NEWROUTE, kCreate, route);
    net.put(RTA_GATEWAY, &gateway, sizeof gateway);
    net.put(RTA_OIF, index);
    net.send("route");
}

std::vector<std::string> cgroup_parents(const std::string &name) {
    std::vector<std::string> out;
    std::ifstream mounts("/proc/self/mounts");
    for (std::string line; std::getline(mounts, line);) {
        std::istringstream words(line);
        std::string device, place, type;
        words >> device >> place >> type;
        if (type == "cgroup" || type == "cgroup2") out.push_back(place + "/" + name);
    }
    return out;
}
void write_text(const std::string &path, const std::string &text) {
    const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0 || ::write(fd, text.data(), text.size()) < 0) die("write " + path);
    ::close(fd);
}
std::string read_text(const std::string &path) {
    std::ifstream in(path);
    return {std::istreambuf_iterator<char>(in), {}};
}
void make_cgroup(const std::string &dir) {
    if (::mkdir(dir.c_str(), 0755) != 0 && errno != EEXIST) die("mkdir " + dir);
    if (::access((dir + "/cpuset.cpus").c_str(), F_OK) != 0 || dir.find("cpuset/") == std::string::npos)
        return;
    const std::string parent = dir.substr(0, dir.rfind('/'));
    for (const char *file : {"/cpuset.cpus", "/cpuset.mems"})
        write_text(dir + file, read_text(parent + file));
}

void mount_at(const char *source, const char *target, const char *type, unsigned long flags,
              const char *data) {
    must(::mount(source, target, type, flags, data), std::string("mount ") + target);
}

// The file system as runtimes lay it out; in the new mount namespace.
void build_root(const std::string &dir, const std::string &overlay) {
    mount_at(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
    const std::string root = dir + "/merged";
    mount_at("overlay", root.c_str(), "overlay", 0, overlay.c_str());
    must(::chdir(root.c_str()), "chdir");
    constexpr unsigned long kSafe = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    mount_at("proc", "proc", "proc", kSafe, nullptr);
    mount_at("tmpfs", "dev", "tmpfs", MS_NOSUID, "mode=755,size=65536k");
    for (const auto &[name, minor] :
         {std::pair{"dev/null", 3}, {"dev/zero", 5}, {"dev/full", 7}, {"dev/random", 8}, {"dev/urandom", 9}})
        must(::mknod(name, S_IFCHR | 0666, makedev(1, static_cast<unsigned>(minor))), name);
    must(::mknod("dev/tty", S_IFCHR | 0666, makedev(5, 0)), "tty");
    for (const auto &[name, target] : {std::pair{"dev/fd", "/proc/self/fd"},
                                       {"dev/stdin", "/proc/self/fd/0"},
                                       {"dev/stdout", "/proc/self/fd/1"},
                                       {"dev/stderr", "/proc/self/fd/2"}})
        must(::symlink(target, name), name);
    for (const char *name : {"dev/pts", "dev/shm", "dev/mqueue"})
        must(::mkdir(name, 0755), name);
    mount_at("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620");
    mount_at("shm", "dev/shm", "tmpfs", kSafe, "mode=1777,size=65536k");
    mount_at("mqueue", "dev/mqueue", "mqueue", kSafe, nullptr);
    mount_at("sysfs", "sys", "sysfs", kSafe | MS_RDONLY, nullptr);
    for (const char *name : {"hosts", "hostname", "resolv.conf"})
        mount_at((dir + "/etc-" + name).c_str(), (std::string("etc/") + name).c_str(), nullptr, MS_BIND,
                 nullptr);
    must(::syscall(SYS_pivot_root, ".", "."), "pivot_root");
    must(::umount2(".", MNT_DETACH), "umount the old root");
    for (const char *name : {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/latency_stats"})
        if (::access(name, F_OK) == 0) mount_at("/dev/null", name, nullptr, MS_BIND, nullptr);
    for (const char *name : {"/proc/acpi", "/proc/scsi", "/sys/firmware"})
        if (::access(name, F_OK) == 0) mount_at("tmpfs", name, "tmpfs", MS_RDONLY, nullptr);
    for (const char *name : {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}) {
        if (::access(name, F_OK) != 0) continue;
        mount_at(name, name, nullptr, MS_BIND | MS_REC, nullptr);
        mount_at(nullptr, name, nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | kSafe, nullptr);
    }
}

void drop_rights() {
    constexpr unsigned long long kKept = 0xa80425fb; // Docker's default set
    for (int capability = 0; capability <= CAP_LAST_CAP; ++capability)
        if (!(kKept >> capability & 1)) ::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2]{};
    data[0].effective = data[0].permitted = static_cast<uint32_t>(kKept);
    must(::syscall(SYS_capset, &header, data), "capset");
    must(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    // A range tree over 460 system calls is about as long as this list, and each call passes nine of its
    // steps.
    std::vector<sock_filter> filter{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
                                    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
                                    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
                                    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
    for (int i = 0; i < 60; ++i) {
        filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 500u + static_cast<unsigned>(i), 0, 1));
        filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM));
    }
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
    must(::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), "seccomp");
}

double ms_since(Clock::time_point begin) {
    return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}
double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values.empty() ? 0 : values[values.size() / 2];
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 5) return std::fprintf(stderr, "usage: floor DIR CGROUP ROUNDS PAUSE_MS [none]\n"), 2;
    const std::string dir = argv[1];
    const int rounds = std::atoi(argv[3]), pause = std::atoi(argv[4]);
    const bool network = argc < 6;
    // DIR/rootfs holds bin/true and the mount points; four more layers are empty.
    std::string lower;
    for (int i = 1; i <= 4; ++i) {
        const std::string layer = dir + "/l" + std::to_string(i);
        ::mkdir(layer.c_str(), 0755);
        lower += layer + ":";
    }
    lower += dir + "/rootfs";
    ::mkdir((dir + "/merged").c_str(), 0755);
    for (const char *name : {"/etc-hosts", "/etc-hostname", "/etc-resolv.conf"})
        std::ofstream(dir + name) << "floor\n";
    mount_at(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
    const unsigned bridge = network ? make_bridge() : 0;
    const auto parents = cgroup_parents(argv[2]);
    for (const auto &parent : parents)
        make_cgroup(parent);

    std::vector<double> to_exec, to_end;
    for (int round = 0; round < rounds; ++round) {
        std::this_thread::sleep_for(std::chrono::milliseconds(pause));
        const auto begin = Clock::now();
        const std::string upper = dir + "/u" + std::to_string(round);
        for (const char *part : {"", "/fs", "/work"})
            must(::mkdir((upper + part).c_str(), 0755), "mkdir upper");
        const std::string overlay =
            "lowerdir=" + lower + ",upperdir=" + upper + "/fs,workdir=" + upper + "/work";
        std::vector<std::string> groups;
        for (const auto &parent : parents) {
            groups.push_back(parent + "/floor" + std::to_string(round));
            make_cgroup(groups.back());
        }
        int go[2], closed_at_exec[2];
        must(::pipe2(go, O_CLOEXEC), "pipe");
        must(::pipe2(closed_at_exec, O_CLOEXEC), "pipe");
        clone_args args{};
        args.flags =
            CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP | CLONE_NEWNET;
        args.exit_signal = SIGCHLD;
        const long child = ::syscall(SYS_clone3, &args, sizeof args);
        must(child, "clone3");
        if (child == 0) {
            ::close(go[1]);
            char byte;
            if (::read(go[0], &byte, 1) != 1) std::_Exit(1);
            if (network) set_network();
            must(::sethostname("floor", 5), "sethostname");
            build_root(dir, overlay);
            drop_rights();
            char name[] = "/bin/true";
            char *const arguments[] = {name, nullptr}, *const environment[] = {nullptr};
            ::execve(name, arguments, environment);
            die("execve /bin/true");
        }
        ::close(go[0]);
        ::close(closed_at_exec[1]);
        if (network) {
            const int fd =
                ::open(("/proc/" + std::to_string(child) + "/ns/net").c_str(), O_RDONLY | O_CLOEXEC);
            must(fd, "open the network namespace");
            make_veth(bridge, fd, round);
            ::close(fd);
        }
        for (const auto &group : groups)
            write_text(group + "/cgroup.procs", std::to_string(child));
        must(::write(go[1], "x", 1), "go");
        char byte;
        if (::read(closed_at_exec[0], &byte, 1) < 0) die("wait for execve");
        to_exec.push_back(ms_since(begin));
        int status = 0;
        must(::waitpid(static_cast<pid_t>(child), &status, 0), "wait");
        if (status != 0)
            return std::fprintf(stderr, "floor: the container ended with status %d\n", status), 1;
        for (const auto &group : groups)
            must(::rmdir(group.c_str()), "rmdir " + group);
        must(::rmdir((upper + "/work/work").c_str()), "rmdir work");
        for (const char *part : {"/fs", "/work", ""})
            must(::rmdir((upper + part).c_str()), "rmdir upper");
        to_end.push_back(ms_since(begin));
        ::close(go[1]);
        ::close(closed_at_exec[0]);
    }
    for (const auto &parent : parents)
        ::rmdir(parent.c_str()); // unless others use it
    std::printf("%.2f %.2f\n", median(to_exec), median(to_end));
}
