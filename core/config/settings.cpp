// The engine's options as schemas, read from gantry.toml, conf.d and flags into the typed structs.
#include "core/config/judge.h"
#include "core/config/names.h"

#include "core/base/files.h"

#include <algorithm>
#include <climits>
#include <filesystem>
#include <fmt/format.h>
#include <gantry/value.hpp>
#include <unistd.h>

namespace gantry {
namespace {

constexpr size_t kFileLimit = 1u << 20;
constexpr int64_t kSecond = 1000000000;

constexpr gantry_option kText = option_string("", nullptr, "");
constexpr const char *kLevels[] = {"debug", "info", "warn", "error", nullptr};

constexpr gantry_option bounded(gantry_option option, int64_t min, int64_t max) {
    option.min = min;
    option.max = max;
    return option;
}

constexpr gantry_option kEngine[] = {
    option_string("root", "\"/var/lib/gantry\"", "directory of all persistent data"),
    option_string("run", "\"/run/gantry\"", "directory of sockets and other things that a reboot ends"),
    option_string("socket", "\"/run/gantry/gantry.sock\"", "where the API listens"),
    option_string("socket_group", "\"\"", "group that may use the socket; empty: root only"),
    option_list("plugin_dirs", "[]", &kText,
                "directories searched for drivers; empty: ../lib/gantry/plugins beside the program"),
    option_string("log_level", "\"info\"", "least severe message that is logged", kLevels),
    option_string("shim", "\"\"", "path of gantry-shim; empty: found beside the program"),
    option_string("libexec", "\"\"", "directory of helper programs; empty: ../lib/gantry beside the program"),
    option_string("default_runtime", "\"gantry\"",
                  "runtime of containers that name none: gantry or a key of runtimes"),
    option_map("runtimes", &kText, "OCI runtimes by name, with the path of their program; runc is preset"),
    option_string("cgroup_parent", "\"/gantry\"", "cgroup under which containers are placed"),
    option_int("warm_sandboxes", "2", 0, 64, "namespaces prepared ahead of the next container"),
    bounded(option_duration("call_timeout", "\"2m\"", "deadline of a driver call that has none of its own"),
            kSecond, 86400 * kSecond),
    bounded(option_duration("stop_timeout", "\"10s\"", "wait between SIGTERM and SIGKILL"), 0,
            86400 * kSecond),
    bounded(option_size("log_max_size", "\"10MiB\"", "size of a container's log file before it is rotated"),
            4096, int64_t(1) << 40),
    option_int("log_max_files", "3", 1, 1000, "log files kept for each container"),
    option_list("dns", "[]", &kText, "name servers of containers; empty: those of the host"),
};
constexpr gantry_option kStorage[] = {
    option_string("driver", "\"auto\"", "driver of all layers, or auto"),
    option_list("prefer", "[\"overlay\", \"btrfs\", \"aufs\", \"vfs\"]", &kText,
                "order in which auto tries drivers"),
    option_bool("durable", "true", "an image that is reported as pulled survives a power cut"),
    option_bool("retain_blobs", "false", "keep compressed layers after unpacking"),
    option_int("max_parallel_unpack", "0", 0, 256, "layers unpacked at once; 0: one for each core"),
};
constexpr gantry_option kNetwork[] = {
    option_string("driver", "\"bridge\"", "driver of networks"),
};
constexpr gantry_option kRegistry[] = {
    option_string("driver", "\"oci\"", "driver of registries, when drivers is empty"),
    option_list("drivers", "[]", &kText, "drivers asked one after the other, in this order"),
    option_string("default", "\"docker.io\"", "registry of references that name none"),
    option_int("max_parallel_downloads", "4", 1, 64, "layers of one image fetched at once"),
    option_map("short_names", &kText,
               "what names without a registry stand for: { redis = \"quay.io/redis/redis\", "
               "\"internal/*\" = \"registry.corp/internal/*\" }"),
    option_int("parallel_ranges", "4", 1, 32, "ranges of one large layer fetched at once"),
    bounded(option_size("range_size", "\"16MiB\"", "size of such a range"), 1 << 20, int64_t(1) << 30),
    bounded(option_duration("partial_ttl", "\"168h\"",
                            "how long an interrupted download is kept to be continued; 0s: not at all"),
            0, 3650 * 86400 * kSecond),
    bounded(option_size("partial_budget", "\"10GiB\"",
                        "disk space of all interrupted downloads; the oldest go first"),
            0, int64_t(1) << 50),
    bounded(option_size("bandwidth", "\"0\"", "bytes per second of all pulls together; 0: no limit"), 0,
            int64_t(1) << 40),
    option_int("max_parallel_uploads", "5", 1, 64, "layers of one image pushed at once"),
};
// In every driver's table, beside the driver's own options.
constexpr const char *kIsolations[] = {"none", "thread", "process", nullptr};
constexpr gantry_option kTimeout =
    bounded(option_duration("", nullptr, "deadline of one operation"), 1000000, 86400 * kSecond);
constexpr gantry_option kHosting[] = {
    option_string(
        "isolation", "\"thread\"",
        "where calls run: process (a child), thread (a call that hangs is given up), none (fastest; a "
        "call that hangs takes its caller along)",
        kIsolations),
    bounded(option_duration("call_timeout", "\"0s\"",
                            "deadline of a call, of a transfer the longest pause; 0: engine.call_timeout"),
            0, 86400 * kSecond),
    option_map("call_timeouts", &kTimeout, "the same for single operations by name, e.g. { list = \"5s\" }"),
};
constexpr const char *kBundledDrivers[] = {"overlay", "btrfs", "aufs",   "vfs",
                                           "bridge",  "oci",   "layout", "peer"};

constexpr const char *kRequires[] = {"accept", "digest", "signature", "refuse", nullptr};
constexpr const char *kMatches[] = {"repository", "exact", "any", nullptr};
constexpr const char *kMatchDoc =
    "what a signature must have been made for: the same repository, exactly the "
    "name asked for, or any name";
constexpr gantry_option kRuleKeys[] = {
    option_string("require", nullptr, "what images of these names must have", kRequires,
                  GANTRY_OPTION_REQUIRED),
    option_list("keys", "[]", &kText, "public keys in PEM files (ECDSA P-256, Ed25519); empty: trust.keys"),
    option_int("threshold", "1", 1, 64, "number of different keys that must have signed"),
    option_string("match", "\"repository\"", kMatchDoc, kMatches),
    option_string("reason", "\"\"", "told to whom is refused"),
};
constexpr gantry_option kRule = option_table("", kRuleKeys, std::size(kRuleKeys), "one rule", "require");
constexpr gantry_option kTrust[] = {
    option_string("default", "\"accept\"", "what images must have whose name no rule matches", kRequires),
    option_list("keys", "[]", &kText, "public keys for the default, and for rules without keys of their own"),
    option_int("threshold", "1", 1, 64, "number of different keys that must have signed, for the default"),
    option_string("match", "\"repository\"", kMatchDoc, kMatches),
    option_string("reason", "\"\"", "told to whom is refused by the default"),
    option_map("rules", &kRule,
               "rules by name: \"*\", \"REGISTRY\", \"*.DOMAIN\", \"REGISTRY/REPOSITORY\", "
               "\"REGISTRY/PATH/*\"; the most specific one counts"),
};

constexpr gantry_option kPinKeys[] = {
    option_string("sha256", nullptr, "digest that the file must have", nullptr, GANTRY_OPTION_REQUIRED),
};
constexpr gantry_option kPin = option_table("", kPinKeys, 1, "one plugin file");
constexpr gantry_option kPlugins = option_map("plugins", &kPin, "plugin files by name, with their sha256");

struct Section {
    const char *name, *doc;
    const gantry_option *options;
    uint32_t count;
    gantry_kind kind; // of the drivers' tables inside; 0: none
};
constexpr Section kSections[] = {
    {"engine", "The engine itself.", kEngine, std::size(kEngine), gantry_kind(0)},
    {"storage", "Layers; [storage.NAME] configures a driver.", kStorage, std::size(kStorage),
     GANTRY_KIND_STORAGE},
    {"network", "Networks; [network.NAME] configures a driver.", kNetwork, std::size(kNetwork),
     GANTRY_KIND_NETWORK},
    {"registry", "Registries; [registry.NAME] configures a driver.", kRegistry, std::size(kRegistry),
     GANTRY_KIND_REGISTRY},
    {"trust", "What images must have before they are let in.", kTrust, std::size(kTrust), gantry_kind(0)},
};
const char *section_of(gantry_kind kind) {
    for (const Section &s : kSections)
        if (s.kind == kind) return s.name;
    throw Error(ErrorClass::kInternal, "find section: unknown kind of driver");
}

std::vector<std::string> map_keys(const Config &map) {
    std::vector<std::string> keys;
    for (uint32_t i = 0; i < map.count(); ++i)
        keys.push_back(map.key(i));
    return keys;
}

std::string program_directory() {
    char path[PATH_MAX];
    const ssize_t size = ::readlink("/proc/self/exe", path, sizeof path - 1);
    return size <= 0 ? "/usr/bin" : std::filesystem::path(std::string(path, size)).parent_path().string();
}

std::string find_runc() {
    for (const char *path :
         {"/usr/local/sbin/runc", "/usr/local/bin/runc", "/usr/sbin/runc", "/usr/bin/runc"})
        if (::access(path, X_OK) == 0) return path;
    return "/usr/bin/runc";
}

class Loaded : public EngineSettings {
  public:
    explicit Loaded(const Sources &sources) {
        if (!sources.file.empty()) read(sources);
        for (const auto &[key, text] : sources.flags)
            set_flag(root_, key, text);
        judge_sections();
        fill();
    }

    const EngineConfig &engine() const override { return engine_; }
    const StorageConfig &storage() const override { return storage_; }
    const NetworkConfig &network() const override { return network_; }
    const RegistryConfig &registry() const override { return registry_; }
    const TrustConfig &trust() const override { return trust_; }
    const std::vector<PluginPin> &pins() const override { return pins_; }

    std::vector<std::string> validate(const std::vector<DriverSchema> &schemas) const override {
        std::vector<std::string> notices;
        for (const Section &section : kSections) {
            if (!section.kind) continue;
            const Node::Entry *table = root_.find(section.name);
            if (!table) continue;
            std::vector<std::string> names;
            for (const DriverSchema &s : schemas)
                if (s.kind == section.kind) names.push_back(s.name);
            if (section.kind == GANTRY_KIND_REGISTRY) judge_chain(table->value, names, notices);
            for (const Node::Entry &entry : table->value.entries)
                if (!is_option(section, entry.key) &&
                    std::find(names.begin(), names.end(), entry.key) == names.end())
                    notices.push_back(judge_orphan(section, entry, names));
        }
        for (const DriverSchema &s : schemas) {
            driver_options(s);
            hosting(s);
        }
        return notices;
    }

    std::shared_ptr<const gantry_value> driver_options(const DriverSchema &schema) const override {
        const std::string path = std::string(section_of(schema.kind)) + "." + schema.name;
        const Node *given = driver_table(schema);
        auto arena = std::make_shared<ValueArena>();
        Node own;
        if (given && given->type == Node::Type::kTable) {
            // All keys are judged together, so that a misspelt one finds its neighbour of either side.
            const std::vector<gantry_option> all = with_hosting(schema);
            judge_table(all.data(), static_cast<uint32_t>(all.size()), given, path, *arena);
            own = *given;
            std::erase_if(own.entries, [](const Node::Entry &e) { return is_hosting_key(e.key); });
            given = &own;
        }
        arena->root = judge_table(schema.options, schema.option_count, given, path, *arena);
        return {arena, &arena->root};
    }

    DriverHosting hosting(const DriverSchema &schema) const override {
        const std::string path = std::string(section_of(schema.kind)) + "." + schema.name;
        const Node *given = driver_table(schema);
        Node own;
        if (given && given->type == Node::Type::kTable) {
            own = *given;
            std::erase_if(own.entries, [](const Node::Entry &e) { return !is_hosting_key(e.key); });
        }
        ValueArena arena;
        const gantry_value value = judge_table(kHosting, std::size(kHosting), &own, path, arena);
        const Config table(&value);
        DriverHosting out;
        const std::string isolation = table.string("isolation");
        out.isolation = isolation == "process" ? DriverHosting::Isolation::kProcess
                        : isolation == "none"  ? DriverHosting::Isolation::kNone
                                               : DriverHosting::Isolation::kThread;
        out.call_timeout_ns =
            table.duration_ns("call_timeout") ? table.duration_ns("call_timeout") : engine_.call_timeout_ns;
        const Config single = table.child("call_timeouts");
        const std::vector<std::string> &known = driver_operations(schema.kind);
        for (uint32_t i = 0; i < single.count(); ++i) {
            const std::string name = single.key(i);
            if (std::find(known.begin(), known.end(), name) == known.end()) {
                const Node::Entry *map = own.find("call_timeouts");
                const Node::Entry *entry = map ? map->value.find(name) : nullptr;
                throw config_error(entry ? entry->key_origin : own.origin,
                                   fmt::format("{}.call_timeouts.{} names no operation of a {} driver{}",
                                               path, quote_key(name), section_of(schema.kind),
                                               did_you_mean(name, known)),
                                   fmt::format("operations: {}", fmt::join(known, ", ")));
            }
            out.call_timeouts.emplace_back(name, single.item(i).as_duration_ns());
        }
        return out;
    }

    std::vector<ShownOption> show(const std::vector<DriverSchema> &schemas) const override {
        std::vector<ShownOption> out;
        for (const Section &s : kSections) {
            const Node::Entry *entry = root_.find(s.name);
            ValueArena arena;
            show_table(s.name, s.options, s.count, entry ? &entry->value : nullptr,
                       judge_table(s.options, s.count, entry ? &entry->value : nullptr, s.name, arena, true),
                       out);
        }
        for (const PluginPin &pin : pins_) {
            const Node &table = root_.find("plugins")->value.find(pin.file)->value;
            const Node::Entry *sha = table.find("sha256");
            out.push_back({"plugins." + quote_key(pin.file) + ".sha256", quote(pin.sha256), kPinKeys[0].doc,
                           sha ? sha->value.origin : table.origin});
        }
        for (const DriverSchema &s : schemas)
            show_driver(s, out);
        // What the file leaves open is decided at start; show the outcome.
        for (ShownOption &option : out) {
            if (option.key == "engine.plugin_dirs") {
                std::vector<std::string> quoted;
                for (const std::string &dir : engine_.plugin_dirs)
                    quoted.push_back(quote(dir));
                option.value = fmt::format("[{}]", fmt::join(quoted, ", "));
            } else if (option.key == "engine.runtimes") {
                std::vector<std::string> pairs;
                for (const auto &[name, path] : engine_.runtimes)
                    pairs.push_back(quote_key(name) + " = " + quote(path));
                option.value = fmt::format("{{ {} }}", fmt::join(pairs, ", "));
            }
        }
        std::sort(out.begin(), out.end(), [](const auto &a, const auto &b) { return a.key < b.key; });
        return out;
    }

  private:
    static std::vector<gantry_option> with_hosting(const DriverSchema &schema) {
        std::vector<gantry_option> all(schema.options, schema.options + schema.option_count);
        all.insert(all.end(), std::begin(kHosting), std::end(kHosting));
        return all;
    }

    void show_driver(const DriverSchema &s, std::vector<ShownOption> &out) const {
        const std::vector<gantry_option> all = with_hosting(s);
        const std::string path = std::string(section_of(s.kind)) + "." + s.name;
        ValueArena arena;
        const auto count = static_cast<uint32_t>(all.size());
        show_table(path, all.data(), count, driver_table(s),
                   judge_table(all.data(), count, driver_table(s), path, arena), out);
    }

    /// A table without a driver. The packaged file has tables of all bundled drivers, installed or not.
    std::string judge_orphan(const Section &section, const Node::Entry &entry,
                             const std::vector<std::string> &names) const {
        const std::string table = fmt::format("[{}.{}]", section.name, quote_key(entry.key));
        const std::vector<std::string> chosen =
            section.kind == GANTRY_KIND_STORAGE   ? std::vector{storage_.driver}
            : section.kind == GANTRY_KIND_NETWORK ? std::vector{network_.driver}
                                                  : registry_.drivers;
        const bool in_use = std::find(chosen.begin(), chosen.end(), entry.key) != chosen.end();
        const bool bundled = std::find(std::begin(kBundledDrivers), std::end(kBundledDrivers), entry.key) !=
                             std::end(kBundledDrivers);
        const std::string meant = bundled ? "" : did_you_mean(entry.key, names);
        if (in_use || !meant.empty() || entry.value.type != Node::Type::kTable)
            throw config_error(entry.key_origin, table + " configures a driver that no plugin offers" + meant,
                               in_use ? missing_driver_hint(section.kind, entry.key)
                                      : "gantry plugin ls shows what was found and why files were refused");
        return fmt::format("{}:{}:{}: no plugin for {}: its options were not checked",
                           entry.key_origin.source, entry.key_origin.line, entry.key_origin.column, table);
    }

    /// A chain that was written down names drivers that are there.
    void judge_chain(const Node &section, const std::vector<std::string> &names,
                     std::vector<std::string> &notices) const {
        const Node::Entry *chain = section.find("drivers");
        if (!chain || chain->value.items.empty()) return;
        for (const std::string &name : registry_.drivers)
            if (std::find(names.begin(), names.end(), name) == names.end())
                throw config_error(chain->value.origin,
                                   fmt::format("registry.drivers names '{}', which no plugin offers{}", name,
                                               did_you_mean(name, names)),
                                   missing_driver_hint(GANTRY_KIND_REGISTRY, name));
        if (const Node::Entry *one = section.find("driver"))
            notices.push_back(
                fmt::format("{}:{}:{}: registry.driver is not used, because registry.drivers is set",
                            one->key_origin.source, one->key_origin.line, one->key_origin.column));
    }

    static bool is_option(const Section &section, const std::string &key) {
        return std::any_of(section.options, section.options + section.count,
                           [&](const gantry_option &o) { return key == o.name; });
    }

    void read(const Sources &sources) {
        bool found = false;
        const std::string text = read_file_if(sources.file, found, kFileLimit);
        if (found)
            merge(root_, parse_document(text, sources.file));
        else if (!sources.file_optional)
            throw Error(ErrorClass::kNotFound, "read configuration " + sources.file + ": no such file");
        const std::string dir = (std::filesystem::path(sources.file).parent_path() / "conf.d").string();
        std::vector<std::string> names = list_directory(dir);
        std::sort(names.begin(), names.end());
        for (const std::string &name : names)
            if (name.ends_with(".toml") && name[0] != '.') {
                const std::string path = dir + "/" + name;
                merge(root_, parse_document(read_file(path, kFileLimit), path));
            }
    }

    void judge_sections() {
        std::vector<std::string> names{"plugins"};
        for (const Section &s : kSections)
            names.emplace_back(s.name);
        for (const Node::Entry &entry : root_.entries)
            if (std::find(names.begin(), names.end(), entry.key) == names.end())
                throw config_error(
                    entry.key_origin,
                    (entry.value.type == Node::Type::kTable ? "unknown section " : "unknown key ") +
                        quote_key(entry.key) + did_you_mean(entry.key, names));
    }

    const Node *section_node(const char *name) const {
        const Node::Entry *entry = root_.find(name);
        return entry ? &entry->value : nullptr;
    }
    const Node *driver_table(const DriverSchema &schema) const {
        const Node *section = section_node(section_of(schema.kind));
        const Node::Entry *entry = section ? section->find(schema.name) : nullptr;
        return entry ? &entry->value : nullptr;
    }
    Origin origin_of(const char *section, const char *key) const {
        const Node *table = section_node(section);
        const Node::Entry *entry = table ? table->find(key) : nullptr;
        return entry ? entry->value.origin : Origin{"default", 0, 0};
    }
    void want_absolute(const char *key, const std::string &path, bool may_be_empty) const {
        if (path.empty() && may_be_empty) return;
        if (path.empty() || path[0] != '/')
            throw config_error(origin_of("engine", key),
                               fmt::format("engine.{} must be an absolute path, not '{}'", key, path));
    }

    void fill() {
        ValueArena arena;
        std::vector<gantry_value> values;
        for (const Section &s : kSections)
            values.push_back(
                judge_table(s.options, s.count, section_node(s.name), s.name, arena, s.kind != 0));
        const Config e(&values[0]), s(&values[1]), n(&values[2]), r(&values[3]);
        engine_.root = e.string("root");
        engine_.run = e.string("run");
        engine_.socket = e.string("socket");
        // A socket that was not named follows the run directory.
        if (origin_of("engine", "socket").source == "default") engine_.socket = engine_.run + "/gantry.sock";
        engine_.socket_group = e.string("socket_group");
        engine_.plugin_dirs = e.strings("plugin_dirs");
        for (const std::string &dir : engine_.plugin_dirs)
            want_absolute("plugin_dirs", dir, false);
        if (engine_.plugin_dirs.empty())
            engine_.plugin_dirs.push_back(
                std::filesystem::path(program_directory() + "/../lib/gantry/plugins")
                    .lexically_normal()
                    .string());
        engine_.log_level = e.string("log_level");
        engine_.shim = e.string("shim");
        engine_.libexec = e.string("libexec");
        engine_.default_runtime = e.string("default_runtime");
        const Config runtimes = e.child("runtimes");
        for (uint32_t i = 0; i < runtimes.count(); ++i)
            engine_.runtimes.emplace_back(runtimes.key(i), runtimes.item(i).as_string());
        const std::vector<std::string> names = map_keys(runtimes);
        if (std::find(names.begin(), names.end(), "runc") == names.end())
            engine_.runtimes.emplace_back("runc", find_runc());
        engine_.cgroup_parent = e.string("cgroup_parent");
        engine_.warm_sandboxes = static_cast<uint32_t>(e.integer("warm_sandboxes"));
        engine_.call_timeout_ns = e.duration_ns("call_timeout");
        engine_.stop_timeout_s =
            static_cast<uint32_t>((e.duration_ns("stop_timeout") + kSecond - 1) / kSecond);
        engine_.log_max_size = static_cast<uint64_t>(e.size("log_max_size"));
        engine_.log_max_files = static_cast<uint32_t>(e.integer("log_max_files"));
        engine_.dns = e.strings("dns");
        want_absolute("root", engine_.root, false);
        want_absolute("run", engine_.run, false);
        if (engine_.socket.starts_with("tcp://") || engine_.socket.starts_with("http"))
            throw config_error(origin_of("engine", "socket"),
                               "engine.socket must be a path: gantryd does not listen on TCP, where whoever "
                               "reaches the port is root on this host; reach it from elsewhere through ssh: "
                               "ssh -L /tmp/gantry.sock:" +
                                   engine_.run + "/gantry.sock HOST");
        want_absolute("socket", engine_.socket, false);
        want_absolute("shim", engine_.shim, true);
        want_absolute("libexec", engine_.libexec, true);
        want_absolute("cgroup_parent", engine_.cgroup_parent, false);
        if (engine_.socket.size() > 107)
            throw config_error(origin_of("engine", "socket"), "engine.socket must be at most 107 bytes long");
        if (engine_.default_runtime != "gantry" &&
            std::none_of(engine_.runtimes.begin(), engine_.runtimes.end(),
                         [&](const auto &rt) { return rt.first == engine_.default_runtime; }))
            throw config_error(origin_of("engine", "default_runtime"),
                               "engine.default_runtime '" + engine_.default_runtime +
                                   "' is neither gantry nor a key of engine.runtimes");
        storage_.driver = s.string("driver");
        storage_.prefer = s.strings("prefer");
        storage_.durable = s.boolean("durable");
        storage_.retain_blobs = s.boolean("retain_blobs");
        storage_.max_parallel_unpack = static_cast<uint32_t>(s.integer("max_parallel_unpack"));
        network_.driver = n.string("driver");
        registry_.drivers = r.strings("drivers");
        for (size_t i = 1; i < registry_.drivers.size(); ++i)
            if (std::find(registry_.drivers.begin(), registry_.drivers.begin() + ptrdiff_t(i),
                          registry_.drivers[i]) != registry_.drivers.begin() + ptrdiff_t(i))
                throw config_error(origin_of("registry", "drivers"),
                                   "registry.drivers names '" + registry_.drivers[i] + "' twice");
        if (registry_.drivers.empty()) registry_.drivers.push_back(r.string("driver"));
        registry_.default_registry = r.string("default");
        registry_.max_parallel_downloads = static_cast<uint32_t>(r.integer("max_parallel_downloads"));
        const Node *registry = section_node("registry");
        const Node::Entry *shorts = registry ? registry->find("short_names") : nullptr;
        registry_.short_names =
            judge_short_names(r.has("short_names") ? r.child("short_names") : Config(nullptr),
                              shorts ? &shorts->value : nullptr);
        trust_ = judge_trust(Config(&values[4]), section_node("trust"));
        registry_.parallel_ranges = static_cast<uint32_t>(r.integer("parallel_ranges"));
        registry_.range_size = static_cast<uint64_t>(r.size("range_size"));
        registry_.partial_ttl_ns = r.duration_ns("partial_ttl");
        registry_.partial_budget = static_cast<uint64_t>(r.size("partial_budget"));
        registry_.bandwidth = static_cast<uint64_t>(r.size("bandwidth"));
        registry_.max_parallel_uploads = static_cast<uint32_t>(r.integer("max_parallel_uploads"));
        fill_pins();
    }

    void fill_pins() {
        const Node *plugins = section_node("plugins");
        if (!plugins) return;
        Node table = *plugins;
        ValueArena arena;
        const gantry_option wrap[] = {kPlugins};
        Node outer;
        outer.entries.push_back({"plugins", table.origin, std::move(table)});
        const gantry_value value = judge_table(wrap, 1, &outer, "", arena);
        const Config pins = Config(&value).child("plugins");
        for (uint32_t i = 0; i < pins.count(); ++i) {
            std::string sha = pins.item(i).string("sha256");
            std::transform(sha.begin(), sha.end(), sha.begin(),
                           [](unsigned char c) { return std::tolower(c); });
            if (sha.size() != 64 || sha.find_first_not_of("0123456789abcdef") != std::string::npos)
                throw config_error(plugins->find(pins.key(i))->value.origin,
                                   "plugins." + quote_key(pins.key(i)) + ".sha256 must be 64 hex digits");
            pins_.push_back({pins.key(i), sha});
        }
    }

    static void show_table(const std::string &prefix, const gantry_option *options, uint32_t count,
                           const Node *table, const gantry_value &value, std::vector<ShownOption> &out) {
        for (uint32_t v = 0; v < value.count; ++v)
            for (uint32_t i = 0; i < count; ++i)
                if (std::string_view(options[i].name) == value.keys[v]) {
                    const Node::Entry *entry = table ? table->find(options[i].name) : nullptr;
                    out.push_back({prefix + "." + options[i].name, render_value(value.items[v], options[i]),
                                   options[i].doc, entry ? entry->value.origin : Origin{"default", 0, 0}});
                }
    }

    Node root_;
    EngineConfig engine_;
    StorageConfig storage_;
    NetworkConfig network_;
    RegistryConfig registry_;
    TrustConfig trust_;
    std::vector<PluginPin> pins_;
};

void document(std::string &out, const gantry_option &option, const std::string &indent) {
    const bool container =
        option.type == GANTRY_TYPE_TABLE || option.type == GANTRY_TYPE_MAP || option.type == GANTRY_TYPE_LIST;
    out += indent + "# " + option.doc;
    if (option.choices) {
        std::vector<std::string> words;
        for (const char *const *c = option.choices; *c; ++c)
            words.emplace_back(*c);
        out += fmt::format(" ({})", fmt::join(words, ", "));
    } else if (option.min || option.max) {
        out += fmt::format(" ({} to {})", show_bound_text(option, option.min),
                           show_bound_text(option, option.max));
    }
    out +=
        "\n" + indent + "#" + option.name + " = " + (option.default_toml ? option.default_toml : "") + "\n";
    if (!container || option.child_count == 0) return;
    const gantry_option *element = &option;
    if (option.type != GANTRY_TYPE_TABLE) element = option.children;
    // Keys of elements, one level after the other: "hosts.NAME.mirrors[].url".
    const auto keys = [&](auto &&self, const gantry_option &e, const std::string &path) -> void {
        if (e.type == GANTRY_TYPE_TABLE)
            for (uint32_t i = 0; i < e.child_count; ++i) {
                const gantry_option &child = e.children[i];
                out += fmt::format("{}#   {}.{}{}: {}\n", indent, path, child.name,
                                   child.default_toml ? fmt::format(" = {}", child.default_toml) : "",
                                   child.doc);
                self(self, child, path + "." + child.name);
            }
        else if ((e.type == GANTRY_TYPE_LIST || e.type == GANTRY_TYPE_MAP) && e.child_count)
            self(self, e.children[0], path + (e.type == GANTRY_TYPE_LIST ? "[]" : ".NAME"));
    };
    keys(keys, *element,
         std::string(option.name) + (option.type == GANTRY_TYPE_LIST  ? "[]"
                                     : option.type == GANTRY_TYPE_MAP ? ".NAME"
                                                                      : ""));
}

} // namespace

bool is_hosting_key(std::string_view key) {
    return std::any_of(std::begin(kHosting), std::end(kHosting),
                       [&](const gantry_option &o) { return key == o.name; });
}

const std::vector<std::string> &driver_operations(gantry_kind kind) {
    static const std::vector<std::string> storage{"start",  "caps",  "create", "mounts", "commit",
                                                  "remove", "usage", "list",   "changes"};
    static const std::vector<std::string> network{"start",  "caps",   "create_network", "remove_network",
                                                  "attach", "detach", "publish",        "restore",
                                                  "stats",  "clean"};
    static const std::vector<std::string> registry{"start", "handles",   "resolve", "fetch",
                                                   "push",  "tags",      "search",  "explain",
                                                   "login", "referrers", "status",  "test"};
    return kind == GANTRY_KIND_STORAGE ? storage : kind == GANTRY_KIND_NETWORK ? network : registry;
}

std::string missing_driver_hint(gantry_kind kind, const std::string &name) {
    return fmt::format("install the package gantry-plugin-{0}-{1}, or set {2}.driver to another driver; "
                       "gantry plugin ls shows those found",
                       kind == GANTRY_KIND_NETWORK ? "net" : section_of(kind), name, section_of(kind));
}

std::shared_ptr<const EngineSettings> EngineSettings::load(const Sources &sources) {
    return std::make_shared<Loaded>(sources);
}

std::string config_docs(const std::vector<DriverSchema> &schemas) {
    std::string out =
        "# gantry configuration. Every option is shown at its default; remove the # to change it.\n"
        "# Files conf.d/*.toml beside this one are read after it, in the order of their names.\n";
    for (const Section &section : kSections) {
        out += fmt::format("\n# {}\n[{}]\n", section.doc, section.name);
        for (uint32_t i = 0; i < section.count; ++i)
            document(out, section.options[i], "");
        for (const DriverSchema &s : schemas) {
            if (s.kind != section.kind) continue;
            out += fmt::format("\n[{}.{}]\n", section.name, quote_key(s.name));
            for (uint32_t i = 0; i < s.option_count; ++i)
                document(out, s.options[i], "");
            for (const gantry_option &option : kHosting)
                document(out, option, "");
        }
    }
    out += "\n# Plugin files that must have a given content:\n#[plugins.\"NAME.so\"]\n#sha256 = \"...\"\n";
    return out;
}

} // namespace gantry
