// A plugin of each kind that works, until its options say otherwise: at the operation `at` it does `how`.
//   hang    ignores deadline and cancellation until the file `release` exists
//   crash   dereferences null         kill  sends itself SIGKILL        exit  ends the process
//   throw   throws an int             leak  loses memory and a descriptor
//   slow    takes 20 ms for each item handed over
// init knows no options: $GANTRY_CHAOS_INIT says how, $GANTRY_CHAOS_RELEASE when to go on.
#include <gantry/plugin.hpp>

#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <unistd.h>

namespace {

using namespace gantry;

void pause_until(const std::string &release) {
    while (release.empty() || ::access(release.c_str(), F_OK) != 0)
        ::usleep(2000);
}

class Chaos {
  public:
    Chaos(const Config &config)
        : at_(config.string("at")), how_(config.string("how")), release_(config.string("release")) {}

    void here(const char *operation) const {
        if (at_ != operation) return;
        if (how_ == "hang") pause_until(release_);
        if (how_ == "crash") *static_cast<int volatile *>(nullptr) = 1;
        if (how_ == "kill") ::kill(::getpid(), SIGKILL);
        if (how_ == "exit") ::_exit(3);
        if (how_ == "throw") throw 42;
        if (how_ == "leak") {
            *static_cast<char volatile *>(std::malloc(1 << 16)) = 1;
            (void)!::open("/dev/null", O_RDONLY | O_CLOEXEC);
        }
    }
    /// Between the items that an operation hands over.
    void between(const char *operation) const {
        if (how_ == "slow" && at_ == operation) ::usleep(20000);
    }
    bool is(const char *how) const { return how_ == how; }

  private:
    std::string at_, how_, release_;
};

const gantry_option kOptions[] = {option_string("at", "\"\"", "operation that misbehaves"),
                                  option_string("how", "\"\"", "what it does"),
                                  option_string("release", "\"\"", "file whose existence ends a hang")};

GANTRY_PLUGIN_INIT([](const Host &host, const Call &) {
    const char *how = std::getenv("GANTRY_CHAOS_INIT"), *release = std::getenv("GANTRY_CHAOS_RELEASE");
    host.count("inits", 1);
    if (how && std::string(how) == "hang") pause_until(release ? release : "");
    if (how && std::string(how) == "crash") *static_cast<int volatile *>(nullptr) = 1;
});
GANTRY_PLUGIN_PROBE([](const Environment &, const Config *config, const Call &) {
    if (!config) return;
    Chaos(*config).here("probe");
    if (config->string("at") == "probe" && config->string("how") == "missing")
        throw Error(ErrorClass::kUnsupported, "kernel has no chaos");
});

} // namespace

#if defined(CHAOS_STORAGE)
class ChaosDriver : public StorageDriver {
  public:
    explicit ChaosDriver(Chaos c) : c_(std::move(c)) {}
    ~ChaosDriver() override { c_.here("destroy"); }
    StorageCaps caps(const Call &) override {
        c_.here("caps");
        StorageCaps caps;
        caps.max_parents = 7;
        return caps;
    }
    void create(const Call &call, const std::string &id, const LayerIds &, uint64_t) override {
        c_.here("create");
        if (id == "log") plugin_host().log(GANTRY_LOG_INFO, "a line from chaos");
        if (id == "stderr") (void)!::write(2, "a raw line\n", 11);
        if (id == "kv") {
            plugin_host().apply(call, {{"key", std::string("value\0with zero", 15)}, {"other", "x"}});
            if (plugin_host().get(call, "key") != std::string("value\0with zero", 15) ||
                plugin_host().get(call, "absent") || plugin_host().list(call, "").size() != 2)
                throw Error(ErrorClass::kDataLoss, "use keys: they came back wrong");
            plugin_host().apply(call, {{"other", std::nullopt}});
            // The second write expects what does not hold.
            plugin_host().apply(call, {{"key", "new", Host::Write::Expect::kAbsent}});
        }
        if (id == "run" && plugin_host().run(call, {"/bin/echo", "hello"}).out != "hello\n")
            throw Error(ErrorClass::kDataLoss, "run echo: it said something else");
        if (id == "error") throw Error(ErrorClass::kNoSpace, "make it: full", "tidy up", ENOSPC);
        if (id == "wait") // obeys
            for (;;) {
                call.check("wait");
                ::usleep(2000);
            }
        if (id == "subject" && (call.subject() != "me" || call.raw()->label_count != 1 ||
                                std::string(call.raw()->labels[0].value) != "v"))
            throw Error(ErrorClass::kDataLoss, "read subject: it got lost");
    }
    std::vector<Mount> mounts(const Call &, const std::string &id, const LayerIds &parents,
                              bool read_only) override {
        c_.here("mounts");
        return {{"overlay", id, "", parents, read_only}};
    }
    void commit(const Call &, const std::string &, const LayerIds &, bool) override { c_.here("commit"); }
    void remove(const Call &, const std::string &) override { c_.here("remove"); }
    Usage usage(const Call &, const std::string &) override {
        c_.here("usage");
        return {42, 7};
    }
    std::vector<std::string> list(const Call &) override {
        c_.here("list");
        return {"a", "b"};
    }
    void changes(const Call &, const std::string &, const LayerIds &,
                 const std::function<void(const Change &)> &each) override {
        for (int i = 0; i < 30; ++i) {
            each({GANTRY_CHANGE_ADDED, "/" + std::to_string(i)});
            if (i == 1) c_.here("changes");
            c_.between("changes");
        }
    }

  private:
    Chaos c_;
};
#define KIND_PLUGIN GANTRY_STORAGE_PLUGIN_WITH_DIFF
#elif defined(CHAOS_NETWORK)
class ChaosDriver : public NetworkDriver {
  public:
    explicit ChaosDriver(Chaos c) : c_(std::move(c)) {}
    ~ChaosDriver() override { c_.here("destroy"); }
    NetworkCaps caps(const Call &) override {
        c_.here("caps");
        NetworkCaps caps;
        caps.ports = true;
        return caps;
    }
    std::vector<Subnet> create_network(const Call &, const NetworkSpec &spec) override {
        c_.here("create_network");
        return {{"10.1.0.0/16", spec.options.empty() ? "10.1.0.1" : spec.options[0].second, ""}};
    }
    void remove_network(const Call &, const NetworkSpec &) override { c_.here("remove_network"); }
    EndpointInfo attach(const Call &, const EndpointSpec &spec) override {
        c_.here("attach");
        // Proves that the descriptor is the caller's file: its target is told back.
        char link[256] = {};
        if (spec.netns_fd >= 0)
            (void)!::readlink(("/proc/self/fd/" + std::to_string(spec.netns_fd)).c_str(), link, 63);
        known_ += spec.id + " ";
        EndpointInfo info;
        info.ipv4 = "10.1.0.2";
        info.ipv4_prefix = 16;
        info.host_interface = link;
        info.mac = known_.substr(0, 64);
        return info;
    }
    void detach(const Call &, const EndpointSpec &) override { c_.here("detach"); }
    std::vector<PortBinding> publish(const Call &, const std::string &, const EndpointInfo &,
                                     const std::vector<PortBinding> &ports) override {
        c_.here("publish");
        std::vector<PortBinding> out = ports;
        for (PortBinding &p : out)
            p.host_port = p.host_port_end = 4321;
        return out;
    }
    void restore(const Call &, const std::vector<NetworkSpec> &,
                 const std::vector<EndpointState> &endpoints) override {
        c_.here("restore");
        known_.clear();
        for (const EndpointState &e : endpoints)
            known_ += e.spec.id + ":" + std::to_string(e.ports.size()) + " ";
    }
    NetworkStats stats(const Call &, const EndpointSpec &) override {
        c_.here("stats");
        return {1, 2, 3, 4, 5, 6, 7, 8};
    }
    void clean(const Call &) override { c_.here("clean"); }

  private:
    Chaos c_;
    std::string known_;
};
#define KIND_PLUGIN GANTRY_NETWORK_PLUGIN
#else
class ChaosDriver : public RegistryDriver {
  public:
    explicit ChaosDriver(Chaos c) : c_(std::move(c)) {}
    ~ChaosDriver() override { c_.here("destroy"); }
    bool handles(const Call &, const RegistryReference &ref) override {
        c_.here("handles");
        return ref.registry == "here";
    }
    Descriptor resolve(const Call &, const RegistryReference &, const std::optional<Credential> &credential,
                       std::string *body) override {
        c_.here("resolve");
        if (body) body->assign(3u << 20, 'm');
        return {"type", credential ? credential->password : "none", 12, "endpoint"};
    }
    void fetch(const Call &call, const Fetch &what, const BlobSink &sink) override {
        const std::string piece(c_.is("slow") ? 100 : 100000, 'b');
        for (uint64_t at = what.offset; at < what.offset + 30 * piece.size(); at += piece.size()) {
            sink("mirror", at, piece.data(), piece.size());
            call.progress("blob", at, 0);
            if (at != what.offset) c_.here("fetch");
            c_.between("fetch");
        }
    }
    void push(const Call &, const Push &what, const BlobSource &source) override {
        c_.here("push");
        std::string all(what.descriptor.size + 1, 0);
        size_t have = 0;
        while (const size_t got = source(have, all.data() + have, std::min<size_t>(all.size() - have, 70000)))
            have += got;
        if (have != what.descriptor.size)
            throw Error(ErrorClass::kDataLoss, "push: " + std::to_string(have) + " bytes came");
    }
    std::vector<std::string> tags(const Call &, const RegistryReference &,
                                  const std::optional<Credential> &) override {
        c_.here("tags");
        return {"one", "two"};
    }
    std::vector<SearchResult> search(const Call &, const std::string &, const std::string &term, uint32_t,
                                     const std::optional<Credential> &) override {
        c_.here("search");
        return {{term, "text", 3, true, false}};
    }
    std::vector<EndpointLine> explain(const Call &, const RegistryReference &) override {
        c_.here("explain");
        return {{"http://x", "mirror", "ok", "why", true, false, true}};
    }
    std::string login(const Call &, const Credential &credential) override {
        c_.here("login");
        return credential.username;
    }
    std::string referrers(const Call &, const RegistryReference &, const std::string &artifact_type,
                          const std::optional<Credential> &) override {
        c_.here("referrers");
        return artifact_type == "large" ? std::string(4u << 20, 'r') : artifact_type;
    }
    std::vector<EndpointLine> status(const Call &) override {
        c_.here("status");
        return {{"http://x", "origin", "ok", "", true, true, true, "r", 5, 6, 7, 8, 9, 10}};
    }
    std::vector<EndpointLine> test(const Call &, const RegistryReference &ref,
                                   const std::optional<Credential> &) override {
        c_.here("test");
        return {{"http://x", "origin", ref.registry, ""}};
    }

  private:
    Chaos c_;
};
#define KIND_PLUGIN GANTRY_REGISTRY_PLUGIN
#endif
KIND_PLUGIN("chaos", "1", "misbehaves as told", kOptions,
            [](const Environment &, const Config &config, const Call &) {
                const Chaos chaos(config);
                chaos.here("start");
                return std::make_unique<ChaosDriver>(chaos);
            });
