// See firewall.h.
//
// Security notes, each held by a test:
//  - a packet from outside to 127.0.0.1 is never translated: a port published on 127.0.0.1 is local;
//  - containers cannot use route_localnet of the bridge to reach the host's 127.0.0.0/8;
//  - only translated or answering packets enter the bridge: who routes packets straight at a container's
//    address does not get past the published ports.
#include "firewall.h"

#include <arpa/inet.h>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <nftables/libnftables.h>
#include <spawn.h>
#include <sstream>
#include <sys/wait.h>
#include <unistd.h>

namespace gantry::bridge {

namespace {

constexpr uint16_t nft_type(uint16_t message) { return (NFNL_SUBSYS_NFTABLES << 8) | message; }
nfgenmsg nft_header(uint8_t family) { return {family, NFNETLINK_V0, 0}; }

std::string map_of(const Forward &f) {
    return std::string(f.v6 ? "dnat6" : "dnat4") + (f.host.family != 0 ? "_ip" : "");
}

// Fields of a concatenation are padded to four bytes each, in network order.
std::string padded(const void *data, size_t size) {
    std::string out(static_cast<const char *>(data), size);
    out.resize((size + 3) & ~size_t{3}, '\0');
    return out;
}
std::string padded_port(uint16_t port) {
    const uint16_t n = htons(port);
    return padded(&n, sizeof n);
}

void put_element(Batch &b, const std::string &table, const Forward &f, bool add) {
    b.message(nft_type(add ? NFT_MSG_NEWSETELEM : NFT_MSG_DELSETELEM), add ? NLM_F_CREATE : 0,
              nft_header(NFPROTO_INET));
    b.put(NFTA_SET_ELEM_LIST_TABLE, table).put(NFTA_SET_ELEM_LIST_SET, map_of(f));
    const size_t list = b.open(NFTA_SET_ELEM_LIST_ELEMENTS | NLA_F_NESTED);
    const size_t element = b.open(NFTA_LIST_ELEM | NLA_F_NESTED);
    std::string key;
    if (f.host.family != 0) key += padded(f.host.bytes.data(), f.host.size());
    key += padded(&f.protocol, 1) + padded_port(f.host_port);
    const size_t k = b.open(NFTA_SET_ELEM_KEY | NLA_F_NESTED);
    b.put(NFTA_DATA_VALUE, key.data(), key.size());
    b.close(k);
    if (add) {
        const std::string value = padded(f.target.bytes.data(), f.target.size()) + padded_port(f.target_port);
        const size_t v = b.open(NFTA_SET_ELEM_DATA | NLA_F_NESTED);
        b.put(NFTA_DATA_VALUE, value.data(), value.size());
        b.close(v);
    }
    b.close(element);
    b.close(list);
}

std::string elements(const std::vector<Forward> &forwards, const std::string &map) {
    std::string out;
    for (const Forward &f : forwards) {
        if (map_of(f) != map) continue;
        out += out.empty() ? "elements = { " : ", ";
        if (f.host.family != 0) out += f.host.text() + " . ";
        out += std::string(f.protocol == IPPROTO_UDP ? "udp" : "tcp") + " . " + std::to_string(f.host_port) +
               " : " + f.target.text() + " . " + std::to_string(f.target_port);
    }
    return out.empty() ? out : out + " }";
}

struct Output {
    int code = -1;
    std::string text;
};

Output run_program(std::vector<std::string> words) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw Error::from_errno(errno, "run " + words[0]);
    Fd in(ends[0]), out(ends[1]);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out.get(), 1);
    posix_spawn_file_actions_adddup2(&actions, out.get(), 2);
    std::vector<char *> argv;
    for (auto &w : words)
        argv.push_back(w.data());
    argv.push_back(nullptr);
    char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin", lang[] = "LANG=C";
    char *env[] = {path, lang, nullptr};
    pid_t pid = -1;
    const int e = ::posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), env);
    posix_spawn_file_actions_destroy(&actions);
    if (e != 0) throw Error::from_errno(e, "run " + words[0]);
    out = Fd();
    Output result;
    char buffer[4096];
    for (;;) {
        const ssize_t n = ::read(in.get(), buffer, sizeof buffer);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        if (result.text.size() < (4u << 20)) result.text.append(buffer, static_cast<size_t>(n));
    }
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
    return result;
}

std::string find_program(std::initializer_list<const char *> names) {
    for (const char *name : names)
        for (const char *folder : {"/usr/sbin/", "/sbin/", "/usr/bin/"})
            if (const std::string path = std::string(folder) + name; ::access(path.c_str(), X_OK) == 0)
                return path;
    return {};
}

enum class Policy { kNoChain, kAccept, kDrop };

Policy forward_policy(Netlink &nl, bool v6) {
    Batch b;
    b.message(nft_type(NFT_MSG_GETCHAIN), 0, nft_header(v6 ? NFPROTO_IPV6 : NFPROTO_IPV4));
    b.put(NFTA_CHAIN_TABLE, "filter").put(NFTA_CHAIN_NAME, "FORWARD");
    Policy policy = Policy::kNoChain;
    nl.ask(b, [&](uint16_t, const uint8_t *data, size_t size) {
        if (size < sizeof(nfgenmsg)) return;
        policy = Policy::kAccept;
        for_each_attribute(data + sizeof(nfgenmsg), size - sizeof(nfgenmsg), [&](const Attribute &a) {
            if (a.type == NFTA_CHAIN_POLICY && ntohl(a.u32()) == NF_DROP) policy = Policy::kDrop;
        });
    });
    return policy;
}

bool legacy_filter(bool v6) {
    std::ifstream in(v6 ? "/proc/net/ip6_tables_names" : "/proc/net/ip_tables_names");
    for (std::string name; in >> name;)
        if (name == "filter") return true;
    return false;
}

std::vector<std::string> split(const std::string &line) {
    std::istringstream in(line);
    std::vector<std::string> words;
    for (std::string w; in >> w;) {
        if (w.size() > 1 && w.front() == '"' && w.back() == '"') w = w.substr(1, w.size() - 2);
        words.push_back(w);
    }
    return words;
}

std::vector<std::string> forward_rules(const std::string &program) {
    const Output o = run_program({program, "-w", "5", "-S", "FORWARD"});
    std::vector<std::string> lines;
    std::istringstream in(o.text);
    for (std::string line; o.code == 0 && std::getline(in, line);)
        lines.push_back(line);
    return lines;
}

/// Rules of FORWARD that nothing passes: "-A FORWARD -j DROP", "-A FORWARD -j REJECT --reject-with ...".
bool drops_all(const std::string &rule) {
    return rule.starts_with("-A FORWARD -j DROP") || rule.starts_with("-A FORWARD -j REJECT");
}

} // namespace

Firewall::Firewall(std::string engine_id, bool masquerade)
    : table_("gantry_" + std::move(engine_id)), masquerade_(masquerade), netlink_(NETLINK_NETFILTER) {}

void Firewall::rebuild(const BridgeSpec &bridge, const std::vector<Forward> &forwards) {
    const std::string br = '"' + bridge.name + '"';
    std::ostringstream s;
    s << "add table inet " << table_ << "\ndelete table inet " << table_ << "\ntable inet " << table_
      << " {\n";
    for (const char *family : {"4", "6"}) {
        const std::string name = std::string("dnat") + family, type = std::string("ipv") + family + "_addr";
        s << "map " << name << " { type inet_proto . inet_service : " << type << " . inet_service; "
          << elements(forwards, name) << " }\n"
          << "map " << name << "_ip { type " << type << " . inet_proto . inet_service : " << type
          << " . inet_service; " << elements(forwards, name + "_ip") << " }\n";
    }
    s << "chain raw { type filter hook prerouting priority raw; policy accept;\n"
         "iifname "
      << br
      << " ip daddr 127.0.0.0/8 drop\n}\n"
         "chain publish {\n"
         "dnat ip to ip daddr . meta l4proto . th dport map @dnat4_ip\n"
         "dnat ip to meta l4proto . th dport map @dnat4\n"
         "dnat ip6 to ip6 daddr . meta l4proto . th dport map @dnat6_ip\n"
         "dnat ip6 to meta l4proto . th dport map @dnat6\n}\n"
         "chain prerouting { type nat hook prerouting priority -100; policy accept;\n"
         "ip daddr 127.0.0.0/8 return\nip6 daddr ::1 return\nfib daddr type local jump publish\n}\n"
         "chain output { type nat hook output priority -100; policy accept;\n"
         "ip6 daddr ::1 return\nfib daddr type local jump publish\n}\n"
         "chain postrouting { type nat hook postrouting priority srcnat; policy accept;\n"
      << "oifname " << br << " ip saddr 127.0.0.0/8 masquerade\n"
      << "oifname " << br << " ip saddr " << bridge.subnet.text() << " ct status dnat masquerade\n";
    if (masquerade_) s << "oifname != " << br << " ip saddr " << bridge.subnet.text() << " masquerade\n";
    if (bridge.subnet6) {
        s << "oifname " << br << " ip6 saddr " << bridge.subnet6->text() << " ct status dnat masquerade\n";
        if (masquerade_)
            s << "oifname != " << br << " ip6 saddr " << bridge.subnet6->text() << " masquerade\n";
    }
    s << "}\nchain forward { type filter hook forward priority filter; policy accept;\n"
      << "iifname " << br << " oifname " << br << " accept\n"
      << "oifname " << br << " ct state established,related accept\n"
      << "oifname " << br << " ct status dnat accept\n"
      << "oifname " << br << " drop\n}\n}\n";

    const std::lock_guard lock(mutex_);
    nft_ctx *context = nft_ctx_new(NFT_CTX_DEFAULT);
    if (!context)
        throw Error(ErrorClass::kInternal, "make nftables table " + table_ + ": no libnftables context");
    nft_ctx_buffer_error(context);
    nft_ctx_buffer_output(context);
    const int failed = nft_run_cmd_from_buffer(context, s.str().c_str());
    std::string why = failed ? nft_ctx_get_error_buffer(context) : "";
    nft_ctx_free(context);
    if (failed)
        throw Error(ErrorClass::kUnsupported,
                    "make nftables table " + table_ + ": " + why.substr(0, why.find('\n')),
                    "gantry needs root and a kernel with nftables (nat, fib, maps)");
}

bool Firewall::present() {
    const std::lock_guard lock(mutex_);
    Batch b;
    b.message(nft_type(NFT_MSG_GETTABLE), 0, nft_header(NFPROTO_INET)).put(NFTA_TABLE_NAME, table_);
    return netlink_.ask(b, [](uint16_t, const uint8_t *, size_t) {}) == 0;
}

void Firewall::change(const std::vector<Forward> &remove, const std::vector<Forward> &add) {
    if (remove.empty() && add.empty()) return;
    const std::lock_guard lock(mutex_);
    Batch b;
    for (const Forward &f : remove)
        put_element(b, table_, f, false);
    for (const Forward &f : add)
        put_element(b, table_, f, true);
    int e = netlink_.transact(b);
    if (e == ENOENT && add.empty()) {
        // Somebody took elements out; the others still have to go.
        for (const Forward &f : remove) {
            Batch one;
            put_element(one, table_, f, false);
            if (const int single = netlink_.transact(one); single != 0 && single != ENOENT)
                throw Error::from_errno(single, "unpublish ports in nftables table " + table_);
        }
        return;
    }
    if (e != 0) throw Error::from_errno(e, "publish ports in nftables table " + table_);
}

void Firewall::remove() {
    const std::lock_guard lock(mutex_);
    Batch b;
    b.message(nft_type(NFT_MSG_DELTABLE), 0, nft_header(NFPROTO_INET)).put(NFTA_TABLE_NAME, table_);
    const int e = netlink_.transact(b);
    if (e != 0 && e != ENOENT) throw Error::from_errno(e, "delete nftables table " + table_);
}

/// True when the bridge's packets pass the chain FORWARD for good: it has our rules now.
bool Firewall::pass(const std::string &program, const std::string &bridge) {
    size_t number = 0, wall = 0;
    bool drop = false;
    for (const std::string &r : forward_rules(program)) {
        if (r.find(table_) != std::string::npos) return true;
        drop = drop || r == "-P FORWARD DROP";
        if (r.starts_with("-A ")) ++number;
        if (wall == 0 && drops_all(r)) wall = number;
    }
    if (!drop && wall == 0) return false;
    // At the end of what others decided, so that their drops keep their meaning: only the final wall is
    // opened for this bridge.
    for (const char *direction : {"-i", "-o"}) {
        std::vector<std::string> words{program, "-w", "5"};
        if (wall != 0)
            words.insert(words.end(), {"-I", "FORWARD", std::to_string(wall)});
        else
            words.insert(words.end(), {"-A", "FORWARD"});
        words.insert(words.end(), {direction, bridge, "-m", "comment", "--comment", table_, "-j", "ACCEPT"});
        const Output o = run_program(words);
        if (o.code != 0)
            throw Error(ErrorClass::kInternal, "accept forwarding for " + bridge + " in " + program + ": " +
                                                   o.text.substr(0, o.text.find('\n')));
    }
    return true;
}

void Firewall::pass_foreign_forward(const Call &call, const std::string &bridge, bool v6, bool quick) {
    const std::lock_guard lock(mutex_);
    for (const bool six : {false, true}) {
        if (six && !v6) continue;
        auto &passed = passed_[six];
        const Policy policy = passed[kNft] ? Policy::kNoChain : forward_policy(netlink_, six);
        if (policy == Policy::kDrop || (policy == Policy::kAccept && !quick)) {
            const std::string program = six ? find_program({"ip6tables-nft", "ip6tables"})
                                            : find_program({"iptables-nft", "iptables"});
            if (!program.empty()) passed[kNft] = pass(program, bridge);
        }
        // Legacy tables live beside nftables, and their policy cannot be read without their program.
        if (passed[kLegacy] || !legacy_filter(six)) continue;
        const std::string name = six ? "ip6tables-legacy" : "iptables-legacy";
        if (const std::string program = find_program({name.c_str()}); !program.empty()) {
            if (!quick) passed[kLegacy] = pass(program, bridge);
        } else if (!quick) {
            call.log(GANTRY_LOG_WARN, ("this host has tables of " + name +
                                       ", which is not installed: if their FORWARD chain drops, containers "
                                       "on " +
                                       bridge + " reach nobody; install it or accept " + bridge + " there")
                                          .c_str());
        }
    }
}

void Firewall::remove_foreign(const Call &) {
    const std::lock_guard lock(mutex_);
    for (const bool six : {false, true}) {
        for (bool &passed : passed_[six])
            passed = false;
        std::vector<std::string> programs;
        if (forward_policy(netlink_, six) != Policy::kNoChain)
            programs.push_back(six ? find_program({"ip6tables-nft", "ip6tables"})
                                   : find_program({"iptables-nft", "iptables"}));
        if (legacy_filter(six))
            programs.push_back(six ? find_program({"ip6tables-legacy"}) : find_program({"iptables-legacy"}));
        for (const std::string &program : programs) {
            if (program.empty()) continue;
            for (const std::string &rule : forward_rules(program)) {
                std::vector<std::string> words = split(rule);
                if (words.size() < 3 || words[0] != "-A") continue;
                bool ours = false;
                for (const auto &w : words)
                    ours = ours || w == table_;
                if (!ours) continue;
                words[0] = "-D";
                words.insert(words.begin(), {program, "-w", "5"});
                run_program(words);
            }
        }
    }
}

} // namespace gantry::bridge
