// The network's part. Links are made in a namespace of their own, so that the host's are untouched; the one
// side effect is that the kernel may load a module, which is what the engine would cause as well.
#include "core/base/cancel.h"
#include "core/base/fd.h"
#include "core/base/files.h"
#include "core/doctor/doctor.h"
#include "core/doctor/in_child.h"
#include "core/plugin/services.h"

#include <arpa/inet.h>
#include <cstring>
#include <linux/if_link.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <sstream>
#include <sys/socket.h>
#include <unistd.h>

namespace gantry::doctor {

namespace {

constexpr const char *kArea = "network";

/// One request and the errno of its answer.
int ask(int protocol, const void *message, size_t size) {
    const UniqueFd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
    if (!socket) return errno;
    if (send(socket.get(), message, size, 0) < 0) return errno;
    char answer[8192];
    const ssize_t got = recv(socket.get(), answer, sizeof answer, 0);
    if (got < 0) return errno;
    nlmsghdr header{};
    if (size_t(got) < sizeof header) return EPROTO;
    memcpy(&header, answer, sizeof header);
    if (header.nlmsg_type != NLMSG_ERROR) return 0;
    nlmsgerr error{};
    if (size_t(got) < sizeof header + sizeof error) return EPROTO;
    memcpy(&error, answer + sizeof header, sizeof error);
    return -error.error;
}

void put(std::string &message, uint16_t type, const void *data, size_t size) {
    const rtattr attribute{uint16_t(sizeof(rtattr) + size), type};
    message.append(reinterpret_cast<const char *>(&attribute), sizeof attribute);
    message.append(static_cast<const char *>(data), size);
    message.resize((message.size() + 3) & ~size_t(3), '\0');
}

int make_link(const char *kind) {
    if (unshare(CLONE_NEWNET)) return errno;
    std::string info, body(sizeof(ifinfomsg), '\0');
    put(info, IFLA_INFO_KIND, kind, strlen(kind));
    put(body, IFLA_IFNAME, "doctor0", 8);
    put(body, IFLA_LINKINFO, info.data(), info.size());
    nlmsghdr header{};
    header.nlmsg_len = uint32_t(sizeof header + body.size());
    header.nlmsg_type = RTM_NEWLINK;
    header.nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK;
    const std::string message = std::string(reinterpret_cast<const char *>(&header), sizeof header) + body;
    return ask(NETLINK_ROUTE, message.data(), message.size());
}

int nftables_generation() {
    if (unshare(CLONE_NEWNET)) return errno;
    struct {
        nlmsghdr header;
        nfgenmsg family;
    } message{};
    message.header.nlmsg_len = sizeof message;
    message.header.nlmsg_type = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETGEN;
    message.header.nlmsg_flags = NLM_F_REQUEST;
    return ask(NETLINK_NETFILTER, &message, sizeof message);
}

void links(Findings &out) {
    for (const char *kind : {"bridge", "veth"}) {
        const int error = in_child([&] { return make_link(kind); });
        out.push_back(
            {kArea, std::string(kind) + " links", error ? Verdict::kError : Verdict::kOk,
             error ? std::string("cannot be made: ") + strerror(error) + ": only --network host and none work"
                   : "can be made",
             error ? std::string("modprobe ") + kind + ", and root" : ""});
    }
    const int error = in_child([] { return nftables_generation(); });
    out.push_back({kArea, "nftables", error ? Verdict::kError : Verdict::kOk,
                   error ? std::string("the kernel does not answer: ") + strerror(error) +
                               ": no ports, no way out for containers"
                         : "the kernel answers; no tool is needed",
                   error ? "modprobe nf_tables, a kernel with CONFIG_NF_TABLES, and root" : ""});
}

std::string output_of(const std::vector<const char *> &words) {
    std::string text;
    gantry_byte_sink sink{};
    sink.struct_size = sizeof sink;
    sink.ctx = &text;
    sink.write = [](void *ctx, const void *data, size_t size) -> gantry_status {
        auto &collected = *static_cast<std::string *>(ctx);
        if (collected.size() < 65536) collected.append(static_cast<const char *>(data), size);
        return GANTRY_OK;
    };
    std::vector<const char *> argv(words);
    argv.push_back(nullptr);
    int32_t code = 0;
    const CallScope call;
    if (run_program(call.call().raw(), argv.data(), nullptr, 0, &sink, nullptr, &code) != GANTRY_OK ||
        code != 0)
        return "";
    return text;
}

std::string program(const char *name) {
    for (const char *folder : {"/usr/sbin/", "/sbin/", "/usr/bin/", "/usr/local/sbin/"})
        if (access((folder + std::string(name)).c_str(), X_OK) == 0) return folder + std::string(name);
    return "";
}

/// A host that drops what it forwards (Docker and some firewalls set this up) is opened for the bridge by way
/// of iptables, because a drop in one table cannot be undone by an accept in another.
void forwarding(Findings &out) {
    bool drops = false;
    for (const char *name : {"iptables-nft", "iptables-legacy"}) {
        if (geteuid() != 0) break;
        const std::string tool = program(name);
        // The legacy tool would load its tables by asking: only where they are in use already.
        bool found = false;
        const std::string tables = read_file_if("/proc/net/ip_tables_names", found);
        if (tool.empty() || (strcmp(name, "iptables-legacy") == 0 && tables.find("filter") == tables.npos))
            continue;
        drops = drops || output_of({tool.c_str(), "-w", "2", "-S", "FORWARD"}).find("-P FORWARD DROP") !=
                             std::string::npos;
    }
    const bool tool = !program("iptables").empty() || !program("iptables-nft").empty();
    if (drops)
        out.push_back(
            {kArea, "forward policy", Verdict::kOk,
             "iptables drops by default (Docker or a firewall); accept rules for the bridge are added", ""});
    else
        out.push_back(
            {kArea, "forward policy", tool ? Verdict::kOk : Verdict::kNotice,
             tool ? "nothing drops what containers send"
                  : "no iptables program: needed only beside a Docker or firewall that drops forwarding",
             tool ? "" : "install the package iptables if such a program runs here"});
}

struct Sysctl {
    const char *path, *name;
    long wanted; // at least
    Verdict below;
    const char *meaning;
};
constexpr Sysctl kSysctls[] = {
    {"/proc/sys/net/ipv4/ip_forward", "net.ipv4.ip_forward", 1, Verdict::kOk,
     "off: the bridge driver switches it on"},
    {"/proc/sys/fs/inotify/max_user_instances", "fs.inotify.max_user_instances", 128, Verdict::kNotice,
     "programs in containers that watch files run out of watches"},
    {"/proc/sys/kernel/keys/maxkeys", "kernel.keys.maxkeys", 200, Verdict::kNotice,
     "many containers of one user exhaust its keys"},
    {"/proc/sys/kernel/pid_max", "kernel.pid_max", 32768, Verdict::kNotice, "few processes in all"},
    {"/proc/sys/vm/max_map_count", "vm.max_map_count", 65530, Verdict::kNotice,
     "databases in containers refuse to start"},
};

void sysctls(Findings &out) {
    for (const Sysctl &sysctl : kSysctls) {
        bool found = false;
        const std::string text = read_file_if(sysctl.path, found);
        if (!found) continue;
        const long value = atol(text.c_str());
        const bool enough = value >= sysctl.wanted;
        out.push_back({kArea, sysctl.name, enough ? Verdict::kOk : sysctl.below,
                       std::to_string(value) + (enough ? "" : std::string(": ") + sysctl.meaning),
                       enough || sysctl.below == Verdict::kOk
                           ? ""
                           : "sysctl -w " + std::string(sysctl.name) + "=" + std::to_string(sysctl.wanted)});
    }
}

struct Network4 {
    uint32_t address = 0, mask = 0;
};

bool parse_subnet(const std::string &text, Network4 &out) {
    const size_t slash = text.find('/');
    in_addr address{};
    if (slash == text.npos || inet_pton(AF_INET, text.substr(0, slash).c_str(), &address) != 1) return false;
    const int bits = atoi(text.c_str() + slash + 1);
    if (bits < 1 || bits > 32) return false;
    out.mask = ~uint32_t(0) << (32 - bits);
    out.address = ntohl(address.s_addr) & out.mask;
    return true;
}

/// A subnet that the host reaches elsewhere (a VPN, another engine) would be cut off by the bridge.
void subnets(const NetworkQuestion &question, Findings &out) {
    bool found = false;
    const std::string routes = read_file_if("/proc/net/route", found);
    for (const std::string &subnet : question.subnets) {
        Network4 wanted;
        if (!parse_subnet(subnet, wanted)) continue;
        std::string conflict;
        std::istringstream lines(routes);
        std::string line;
        std::getline(lines, line);
        while (std::getline(lines, line)) {
            char name[IF_NAMESIZE + 1] = {};
            unsigned destination = 0, mask = 0;
            if (sscanf(line.c_str(), "%16s %x %*x %*x %*d %*d %*d %x", name, &destination, &mask) != 3)
                continue;
            // Half of the whole address space is a VPN's way of saying "default".
            if (ntohl(mask) < 0xff000000u || name == question.bridge) continue;
            const uint32_t there = ntohl(destination), width = ntohl(mask) & wanted.mask;
            if ((there & width) == (wanted.address & width)) conflict = name;
        }
        out.push_back(
            {kArea, "subnet " + subnet, conflict.empty() ? Verdict::kOk : Verdict::kWarning,
             conflict.empty() ? "reached by no other link" : "the host reaches it through " + conflict,
             conflict.empty() ? "" : "network.bridge.subnet = another private range"});
    }
}

void resolver(Findings &out) {
    bool found = false;
    std::istringstream lines(read_file_if("/etc/resolv.conf", found));
    std::string line;
    size_t servers = 0, local = 0;
    while (std::getline(lines, line)) {
        char address[128] = {};
        if (sscanf(line.c_str(), " nameserver %127s", address) != 1) continue;
        ++servers;
        if (strncmp(address, "127.", 4) == 0 || strcmp(address, "::1") == 0) ++local;
    }
    const bool reachable = servers > local;
    out.push_back({kArea, "name servers", reachable ? Verdict::kOk : Verdict::kNotice,
                   reachable      ? std::to_string(servers - local) + " reachable from containers"
                   : servers == 0 ? "none in /etc/resolv.conf"
                                  : "only loopback addresses, which containers cannot reach",
                   reachable ? "" : "engine.dns = [\"ADDRESS\"]"});
}

} // namespace

void examine_network(const NetworkQuestion &question, Findings &out) {
    links(out);
    forwarding(out);
    sysctls(out);
    subnets(question, out);
    resolver(out);
}

} // namespace gantry::doctor
