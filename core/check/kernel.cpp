// What this engine has in the kernel: shims, cgroups, links, the firewall's table, mounts; and endpoints
// with their leases, which stand for links. Running containers against it, and it against them.
//
// Whose a thing is: a shim's command line names its sandbox, cgroups lie under engine.cgroup_parent, the
// bridge bears "gantry:<engine id>" as its alias, the table is named gantry_<engine id>.
#include "core/base/fd.h"
#include "core/base/files.h"
#include "core/check/checker.h"
#include "core/config/config.h"
#include "core/container/containers.h"
#include "core/network/networks.h"
#include "core/runtime/cgroups.h"
#include "core/runtime/runtime.h"
#include "core/store/db.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/rtnetlink.h>
#include <map>
#include <net/if.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

namespace gantry::check {
namespace {

constexpr char kArea[] = "kernel";

bool all_digits(const std::string &text) {
    return !text.empty() && text.find_first_not_of("0123456789") == text.npos;
}

/// Sandbox id -> a process of its shim.
std::map<std::string, std::string> shims() {
    std::map<std::string, std::string> out;
    for (const std::string &pid : list_directory("/proc")) {
        if (!all_digits(pid)) continue;
        // Its beginning: other programs may have any number of arguments.
        const UniqueFd file(::open(("/proc/" + pid + "/cmdline").c_str(), O_RDONLY | O_CLOEXEC));
        char text[256];
        const ssize_t size = file ? ::read(file.get(), text, sizeof text - 1) : -1;
        if (size <= 0) continue;
        const std::string line(text, static_cast<size_t>(size));
        static const std::string kName("gantry-shim\0", 12);
        if (line.starts_with(kName)) out.emplace(line.c_str() + kName.size(), pid);
    }
    return out;
}

/// A netlink request with a head of its own and one string attribute; answers go to `each`.
template <typename Head, typename Each>
void ask(int protocol, uint16_t type, uint16_t flags, const Head &head, Each each) {
    const UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
    if (!fd) throw Error::from_errno(errno, "open netlink");
    struct {
        nlmsghdr message;
        Head head;
    } request{};
    request.message = {sizeof request, type, static_cast<uint16_t>(NLM_F_REQUEST | flags), 1, 0};
    request.head = head;
    if (::send(fd.get(), &request, sizeof request, 0) < 0) throw Error::from_errno(errno, "ask netlink");
    alignas(nlmsghdr) char buffer[32768];
    for (;;) {
        const ssize_t n = ::recv(fd.get(), buffer, sizeof buffer, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw Error::from_errno(errno, "read netlink");
        auto left = static_cast<unsigned>(n);
        for (auto *m = reinterpret_cast<nlmsghdr *>(buffer); NLMSG_OK(m, left); m = NLMSG_NEXT(m, left)) {
            if (m->nlmsg_type == NLMSG_DONE) return;
            if (m->nlmsg_type == NLMSG_ERROR) {
                const int error = -static_cast<nlmsgerr *>(NLMSG_DATA(m))->error;
                if (error != 0) throw Error::from_errno(error, "ask netlink");
                return;
            }
            each(*m);
        }
    }
}

void delete_link(const std::string &name) {
    ifinfomsg head{};
    head.ifi_index = static_cast<int>(::if_nametoindex(name.c_str()));
    if (head.ifi_index == 0) return;
    ask(NETLINK_ROUTE, RTM_DELLINK, NLM_F_ACK, head, [](const nlmsghdr &) {});
}

bool has_table(const std::string &name) {
    bool found = false;
    nfgenmsg head{};
    head.nfgen_family = AF_UNSPEC;
    ask(NETLINK_NETFILTER, (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETTABLE, NLM_F_DUMP, head,
        [&](const nlmsghdr &m) {
            auto *a = reinterpret_cast<const nlattr *>(static_cast<const char *>(NLMSG_DATA(&m)) +
                                                       NLMSG_ALIGN(sizeof(nfgenmsg)));
            auto left = static_cast<int>(m.nlmsg_len) - static_cast<int>(NLMSG_SPACE(sizeof(nfgenmsg)));
            for (; left >= static_cast<int>(sizeof *a) && a->nla_len >= sizeof *a && a->nla_len <= left;) {
                if ((a->nla_type & NLA_TYPE_MASK) == NFTA_TABLE_NAME &&
                    name == reinterpret_cast<const char *>(a + 1))
                    found = true;
                const int step = NLA_ALIGN(a->nla_len);
                left -= step;
                a = reinterpret_cast<const nlattr *>(reinterpret_cast<const char *>(a) + step);
            }
        });
    return found;
}

class KernelCheck {
  public:
    explicit KernelCheck(Checker &c) : c_(c), containers_(*c.parts.containers) {}

    void run() {
        running();
        sandboxes();
        endpoints();
        links();
        leases();
        mounts();
    }

  private:
    void running() {
        std::map<std::string, std::string> names; // sandbox -> container
        const auto lost = twice([&] {
            std::set<std::string> out;
            names.clear();
            for (const ContainerInfo &info : containers_.list(true))
                if (info.state.running && !info.sandbox_id.empty())
                    names[info.sandbox_id] = info.name.starts_with("/") ? info.name.substr(1) : info.name;
            const auto alive = shims();
            for (const auto &[sandbox, name] : names)
                if (!alive.contains(sandbox)) out.insert(sandbox);
            return out;
        });
        for (const std::string &sandbox : lost)
            c_.problem(kArea, names[sandbox], "is said to run, and its gantry-shim is gone",
                       "restart the engine: its start records the exit");
    }

    /// Known sandboxes, and those of commands (exec) in containers that run.
    bool belongs(const std::string &id, const std::set<std::string> &known,
                 const std::map<std::string, std::string> &alive) const {
        if (known.contains(id)) return true;
        const auto shim = alive.find(id);
        if (shim == alive.end()) return false;
        bool found = false;
        const std::string task = "/proc/" + shim->second + "/task/" + shim->second + "/children";
        const std::string children = read_file_if(task, found, 4096);
        const std::string child = children.substr(0, children.find(' '));
        if (!all_digits(child)) return false;
        const std::string groups = read_file_if("/proc/" + child + "/cgroup", found, 65536);
        return std::any_of(known.begin(), known.end(), [&](const std::string &one) {
            return groups.find(c_.parts.config->cgroup_parent + "/" + one) != groups.npos;
        });
    }
    void sandboxes() {
        const std::string folder = c_.parts.config->run + "/sandboxes";
        std::set<std::string> all;
        const auto stray = twice([&] {
            // Directories first: one that is made meanwhile is known by then.
            const std::vector<std::string> made = list_directory(folder);
            const std::set<std::string> groups = cgroups();
            const auto alive = shims();
            const auto owned = containers_.owned();
            all = groups;
            all.insert(made.begin(), made.end());
            std::set<std::string> out;
            for (const std::string &id : all)
                if (owned && !belongs(id, owned->sandboxes, alive)) out.insert(id);
            return out;
        });
        for (const std::string &id : stray) {
            const bool shim = shims().contains(id);
            c_.problem(kArea, "sandbox " + id.substr(0, 12),
                       shim ? "has a gantry-shim and belongs to no container" : "is left of what has ended",
                       "", [&] {
                           std::vector<std::string> keep(all.begin(), all.end());
                           for (const std::string &now : list_directory(folder))
                               keep.push_back(now);
                           for (const std::string &now : cgroups())
                               keep.push_back(now);
                           std::erase(keep, id);
                           c_.parts.runtime->sweep(keep);
                           return std::string("ended and removed");
                       });
        }
    }
    std::set<std::string> cgroups() const {
        std::set<std::string> out;
        for (const CgroupHierarchy &hierarchy : detect_cgroups().hierarchies) {
            const std::string folder = hierarchy.mount_point + c_.parts.config->cgroup_parent;
            for (const std::string &id : list_directory(folder))
                if (path_exists(folder + "/" + id + "/cgroup.procs")) out.insert(id);
        }
        return out;
    }

    struct Row {
        std::string id, owner;
    };
    std::vector<Row> rows() const {
        std::vector<Row> out;
        c_.parts.db->transact([&](Db &t) {
            auto row = t.prepare("SELECT id,owner FROM endpoint WHERE state='ready'");
            while (row.step())
                out.push_back({row.text(0), row.text(1)});
        });
        return out;
    }
    void endpoints() {
        const auto stray = twice([&] {
            std::set<std::string> out;
            const std::vector<Row> all = rows();
            const auto owned = containers_.owned();
            for (const Row &row : all)
                if (owned && !owned->owners.contains(row.owner)) out.insert(row.owner);
            return out;
        });
        for (const std::string &owner : stray)
            c_.problem(kArea, "endpoint of " + owner.substr(0, 12), "belongs to nobody who runs", "", [&] {
                c_.parts.networks->detach_all(owner);
                return std::string("detached");
            });
    }

    std::set<std::string> expected_links() const {
        std::set<std::string> out;
        for (const Row &row : rows())
            for (const Endpoint &e : c_.parts.networks->endpoints_of(row.owner))
                if (!e.info.host_interface.empty()) out.insert(e.info.host_interface);
        return out;
    }
    void links() {
        std::string bridge;
        bool found = false;
        for (const std::string &name : list_directory("/sys/class/net")) {
            std::string alias = read_file_if("/sys/class/net/" + name + "/ifalias", found, 4096);
            alias = alias.substr(0, alias.find('\n'));
            if (found && alias == "gantry:" + c_.parts.engine_id) bridge = name;
        }
        const auto gone = twice([&] {
            std::set<std::string> out = expected_links();
            for (const std::string &name : list_directory("/sys/class/net"))
                out.erase(name);
            return out;
        });
        for (const std::string &name : gone)
            c_.problem(kArea, "link " + name, "is gone: its container has no network",
                       "restart the container");
        const std::string table = "gantry_" + c_.parts.engine_id;
        if (bridge.empty()) return;
        const auto stray = twice([&] {
            std::set<std::string> out;
            for (const std::string &name : list_directory("/sys/class/net/" + bridge + "/brif"))
                out.insert(name);
            for (const std::string &name : expected_links())
                out.erase(name);
            return out;
        });
        for (const std::string &name : stray) {
            // Anything may be put on a bridge by its administrator; ours are named gv and eight digits.
            if (name.size() != 10 || !name.starts_with("gv"))
                c_.notice(kArea, "link " + name, "is on bridge " + bridge + ", and not by this engine");
            else
                c_.problem(kArea, "link " + name, "belongs to no endpoint", "", [&] {
                    delete_link(name);
                    return std::string("removed");
                });
        }
        try {
            if (!has_table(table))
                c_.problem(kArea, "firewall",
                           "the table " + table + " is gone: published ports are not reachable",
                           "restart the engine: its start makes it again");
        } catch (const Error &error) {
            c_.notice(kArea, "firewall", "cannot be looked at: " + error.message());
        }
    }

    void leases() {
        const auto stray = twice([&] {
            std::set<std::string> out;
            c_.parts.db->transact([&](Db &t) {
                auto row =
                    t.prepare("SELECT key FROM plugin_kv WHERE key LIKE 'lease/%' AND NOT EXISTS(SELECT 1 "
                              "FROM endpoint WHERE endpoint.id=CAST(plugin_kv.value AS TEXT))");
                while (row.step())
                    out.insert(row.text(0));
            });
            return out;
        });
        for (const std::string &key : stray)
            c_.problem(kArea, "address " + key.substr(key.rfind('/') + 1), "is lent to nobody who exists",
                       "restart the engine: its start takes it back");
    }

    void mounts() {
        const std::string folder = c_.parts.config->run + "/shm";
        const auto stray = twice([&] {
            std::set<std::string> out;
            for (const std::string &id : list_directory(folder))
                out.insert(id);
            for (const ContainerInfo &info : containers_.list(true))
                if (info.state.running) out.erase(info.id);
            return out;
        });
        for (const std::string &id : stray)
            c_.problem(kArea, "shared memory " + id.substr(0, 12), "is left of a container that has ended",
                       "", [&] {
                           const std::string path = folder + "/" + id;
                           if (::umount2(path.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0 &&
                               errno != EINVAL && errno != ENOENT)
                               throw Error::from_errno(errno, "unmount " + path);
                           if (::rmdir(path.c_str()) != 0 && errno != ENOENT)
                               throw Error::from_errno(errno, "remove " + path);
                           return std::string("removed");
                       });
    }

    Checker &c_;
    Containers &containers_;
};

} // namespace

void check_kernel(Checker &c) { KernelCheck(c).run(); }

} // namespace gantry::check
