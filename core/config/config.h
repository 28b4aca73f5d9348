// The engine's configuration, typed and validated. TOML stays inside config/*.cpp.
//
// gantry.toml, then conf.d/*.toml beside it in name order, then flags; a later source replaces single
// keys of an earlier one. Unknown keys, wrong types and bad values throw kInvalidArgument with a
// message "FILE:LINE:COLUMN: ..." that suggests the nearest valid name. Nothing is half applied.
#pragma once

#include <gantry/abi.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gantry {

struct EngineConfig {
    std::string root = "/var/lib/gantry";
    std::string run = "/run/gantry";
    std::string socket = "/run/gantry/gantry.sock";
    std::string socket_group;             // "" : root only
    std::vector<std::string> plugin_dirs; // default: <prefix>/lib/gantry/plugins beside the binary
    std::string log_level = "info";
    std::string shim;                       // "" : found beside the binary
    std::string libexec;                    // "" : found beside the binary (<prefix>/lib/gantry)
    std::string default_runtime = "gantry"; // or a key of `runtimes`
    std::vector<std::pair<std::string, std::string>> runtimes; // name -> path; "runc" is preset
    std::string cgroup_parent = "/gantry";
    uint32_t warm_sandboxes = 2;
    int64_t call_timeout_ns = 120ll * 1000000000; // deadline of a driver call without one of its own
    uint32_t stop_timeout_s = 10;
    uint64_t log_max_size = 10ull << 20; // bytes of one container log file before rotation
    uint32_t log_max_files = 3;
    std::vector<std::string> dns; // for containers; "" : the host's resolv.conf
};

struct StorageConfig {
    std::string driver = "auto";
    std::vector<std::string> prefer = {"overlay", "btrfs", "aufs", "vfs"};
    bool durable = true;
    bool retain_blobs = false;
    uint32_t max_parallel_unpack = 0; // 0: cores
};

struct NetworkConfig {
    std::string driver = "bridge";
};

struct RegistryConfig {
    std::vector<std::string> drivers = {"oci"}; // the chain, in order; never empty, no name twice
    std::string default_registry = "docker.io";
    uint32_t max_parallel_downloads = 4;
    /// What names without a registry stand for, longest key first: "redis" or "internal/*".
    std::vector<std::pair<std::string, std::string>> short_names;
    uint32_t parallel_ranges = 4;                      // of one blob
    uint64_t range_size = 16ull << 20;                 // bytes
    int64_t partial_ttl_ns = 7 * 86400ll * 1000000000; // of a download that nobody continues; 0: none is kept
    uint64_t partial_budget = 10ull << 30;             // bytes of all of them on the disk
    uint64_t bandwidth = 0;                            // bytes per second of all pulls; 0: no limit
    uint32_t max_parallel_uploads = 5;
};

/// A pinned plugin file: [plugins."libX.so"] sha256 = "...".
struct PluginPin {
    std::string file, sha256;
};

/// Where an effective value came from.
struct Origin {
    std::string source; // file path, "default" or "flag"
    uint32_t line = 0, column = 0;
};

/// What an image must bring before a name may stand for it.
enum class TrustRequire { kAccept, kDigest, kSignature, kRefuse };
/// How far the name in a signature must agree with the name that was asked for.
enum class TrustMatch { kRepository, kExact, kAny };

struct TrustKey {
    std::string file; // PEM, one public key or several
    Origin origin;
};

/// [trust.rules."PATTERN"]; [trust] itself is the rule of all other names.
struct TrustRule {
    std::string pattern; // as written; "" for [trust] itself
    Origin origin;
    /// The pattern's parts. host "" is any, ".example.com" all hosts below it; repository "" is all,
    /// with `below` all repositories beneath it and not the one itself.
    std::string host, repository;
    bool below = false;
    TrustRequire require = TrustRequire::kAccept;
    std::vector<TrustKey> keys;
    uint32_t threshold = 1; // different keys that must have signed
    TrustMatch match = TrustMatch::kRepository;
    std::string reason; // for people who are refused
};

struct TrustConfig {
    TrustRule fallback;
    std::vector<TrustRule> rules; // the most specific first
};

/// "key = value" for `config show`.
struct ShownOption {
    std::string key, value, doc;
    Origin origin;
};

/// What the loader must know of a driver's options before it can judge its table.
struct DriverSchema {
    gantry_kind kind;
    std::string name;
    const gantry_option *options = nullptr;
    uint32_t option_count = 0;
};

/// How the engine runs a driver: the keys that every driver's table has besides the driver's own.
struct DriverHosting {
    enum class Isolation { kNone, kThread, kProcess } isolation = Isolation::kThread;
    int64_t call_timeout_ns = 0;                                // of each call
    std::vector<std::pair<std::string, int64_t>> call_timeouts; // of single operations

    int64_t timeout_of(std::string_view operation) const {
        for (const auto &[name, timeout] : call_timeouts)
            if (name == operation) return timeout;
        return call_timeout_ns;
    }
};

/// Operations of a kind whose deadline can be set alone; "start" is init and create of the instance.
const std::vector<std::string> &driver_operations(gantry_kind kind);
/// What to do about a chosen driver that no plugin offers.
std::string missing_driver_hint(gantry_kind kind, const std::string &name);
/// True for the keys of DriverHosting, which no driver may use for its own.
bool is_hosting_key(std::string_view key);

/// An effective, validated configuration. Immutable; share it freely between threads.
class EngineSettings {
  public:
    struct Sources {
        std::string file;                                       // "" : defaults only; a named file must exist
        bool file_optional = false;                             // true for the default path
        std::vector<std::pair<std::string, std::string>> flags; // "engine.root" -> TOML text or plain string
    };
    /// Reads the sources. [storage.X], [network.X], [registry.X] are kept unjudged until validate().
    static std::shared_ptr<const EngineSettings> load(const Sources &sources);
    virtual ~EngineSettings() = default;

    virtual const EngineConfig &engine() const = 0;
    virtual const StorageConfig &storage() const = 0;
    virtual const NetworkConfig &network() const = 0;
    virtual const RegistryConfig &registry() const = 0;
    virtual const TrustConfig &trust() const = 0;
    virtual const std::vector<PluginPin> &pins() const = 0;

    /// Judges all driver tables against the schemas of the drivers found. A table of a driver that no
    /// plugin offers is an error when that driver is chosen or the name looks like a misspelt one.
    /// Throws the first error; returns notices about tables that could not be judged.
    virtual std::vector<std::string> validate(const std::vector<DriverSchema> &schemas) const = 0;
    /// The validated, defaulted table of one driver as ABI value; borrowed from the returned holder.
    virtual std::shared_ptr<const gantry_value> driver_options(const DriverSchema &schema) const = 0;
    virtual DriverHosting hosting(const DriverSchema &schema) const = 0;
    /// Everything effective, driver tables included, sorted by key; secrets as "***".
    virtual std::vector<ShownOption> show(const std::vector<DriverSchema> &schemas) const = 0;
};

/// A commented TOML file with every option of the engine and the given drivers at its default.
std::string config_docs(const std::vector<DriverSchema> &schemas);
/// Turns Docker's daemon.json into TOML; what has no counterpart becomes a comment that says so.
/// `file` is for messages. Throws kInvalidArgument with file:line:column on malformed JSON.
std::string import_docker_config(const std::string &json_text, const std::string &file);

} // namespace gantry
