// What a plugin's entry.cpp needs: host services, typed options, and the macros that put a C++
// driver behind the C table. No exception leaves the thunks: gantry::Error becomes its class,
// bad_alloc no_space, anything else internal.
//
//   class MyDriver : public gantry::StorageDriver { ... };
//   static const gantry_option kOptions[] = {
//       gantry::option_string("mount_options", "\"\"", "extra mount options"), };
//   GANTRY_STORAGE_PLUGIN("mine", "1.0", "layers on my filesystem", kOptions,
//       [](const gantry::Environment &env, const gantry::Config &config, const gantry::Call &) {
//           return std::make_unique<MyDriver>(env.root, config.string("mount_options")); });
#pragma once

#include <gantry/call.hpp>
#include <gantry/fd.hpp>
#include <gantry/network.hpp>
#include <gantry/registry.hpp>
#include <gantry/storage.hpp>
#include <gantry/thunk.hpp>
#include <gantry/value.hpp>

#include <array>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace gantry {

struct Environment {
    std::string root, run, libexec, engine_id;
};

/// Services of the host; valid from init until deinit. Thread-safe.
class Host {
  public:
    explicit Host(const gantry_host *raw = nullptr) noexcept : raw_(raw) {}
    explicit operator bool() const noexcept { return raw_ != nullptr; }

    void log(int32_t level, const std::string &message) const noexcept;

    struct Write {
        std::string key;
        std::optional<std::string> value; // nullopt: delete
        enum class Expect { kNothing, kAbsent, kEqual } expect = Expect::kNothing;
        std::string expected;
    };
    std::optional<std::string> get(const Call &call, const std::string &key) const;
    /// All or nothing; throws kFailedPrecondition when an expectation does not hold.
    void apply(const Call &call, const std::vector<Write> &writes) const;
    std::vector<std::string> list(const Call &call, const std::string &prefix) const;

    struct Output {
        int exit_code = 0;
        std::string out, err; // at most 1 MiB each
    };
    Output run(const Call &call, const std::vector<std::string> &argv, const std::string &input = {}) const;
    /// A whole, verified blob of the engine's; `size` becomes its bytes. kNotFound, kUnsupported.
    UniqueFd open_blob(const Call &call, const std::string &digest, uint64_t &size) const;
    void count(const char *name, int64_t delta) const noexcept;
    void gauge(const char *name, int64_t value) const noexcept;

  private:
    const gantry_host *raw_;
};

/// The host that this plugin was initialised with (empty before init and in linked-in tests).
Host plugin_host() noexcept;

/// For a plugin without options: GANTRY_..._PLUGIN(name, version, text, gantry::kNoOptions, factory).
inline constexpr std::array<gantry_option, 0> kNoOptions{};

/// Optional: GANTRY_PLUGIN_INIT([](const gantry::Host &, const gantry::Call &) { ... }) at file scope
/// looks for prerequisites before any instance is made; Error(kUnsupported) means "skipped".
struct OnInit {
    using Hook = void (*)(const Host &, const Call &);
    explicit OnInit(Hook hook) noexcept;
};

/// Optional: GANTRY_PLUGIN_PROBE([](const gantry::Environment &, const gantry::Config *,
/// const gantry::Call &) { ... }) at file scope implements gantry.probe/1 (<gantry/abi.h>): returns
/// when create could work, throws Error(kUnsupported, "kernel has no aufs") when a prerequisite is
/// missing. The options are null when the driver's table is not valid. Changes nothing anywhere.
struct OnProbe {
    using Hook = void (*)(const Environment &, const Config *, const Call &);
    explicit OnProbe(Hook hook) noexcept;
};

namespace detail {

extern const gantry_storage_v1 kStorageTable;
extern const gantry_network_v1 kNetworkTable;
extern const gantry_registry_v1 kRegistryTable;
/// gantry.probe/1 alone, and after gantry.storage.diff/1.
extern const gantry_ability kAbilities[1], kStorageDiffAbilities[2];
extern const gantry_storage_diff_1 kStorageDiffTable;
extern const gantry_probe_1 kProbeTable;

/// What plugin_host() returns from now on; linked-in tests lend their own host with it.
void set_plugin_host(const gantry_host *host) noexcept;
gantry_status init(const gantry_host *host, const gantry_call *call) noexcept;
void deinit() noexcept;

template <typename Driver>
using Factory = std::unique_ptr<Driver> (*)(const Environment &, const Config &, const Call &);

template <typename Driver, Factory<Driver> make>
gantry_status create(const gantry_call *call, const gantry_environment *env, const gantry_value *config,
                     gantry_driver **out) noexcept {
    return guard(call, [&] {
        *out = nullptr;
        std::unique_ptr<Driver> driver =
            make(Environment{env->root, env->run, env->libexec, env->engine_id}, Config(config), Call(call));
        if (!driver) throw Error(ErrorClass::kInternal, "create driver: the factory returned nothing");
        *out = reinterpret_cast<gantry_driver *>(driver.release());
    });
}
template <typename Driver> void destroy(gantry_driver *driver) noexcept {
    delete reinterpret_cast<Driver *>(driver);
}

} // namespace detail
} // namespace gantry

#define GANTRY_PLUGIN_INIT(...) static const ::gantry::OnInit gantry_on_init_(__VA_ARGS__)
#define GANTRY_PLUGIN_PROBE(...) static const ::gantry::OnProbe gantry_on_probe_(__VA_ARGS__)

#define GANTRY_PLUGIN_ENTRY_(kind_, driver_, table_, abilities_, ability_count_, name_, version_, text_,     \
                             options_, ...)                                                                  \
    static ::std::unique_ptr<driver_> gantry_make_driver_(                                                   \
        const ::gantry::Environment &env_, const ::gantry::Config &config_, const ::gantry::Call &call_) {   \
        const auto factory_ = __VA_ARGS__;                                                                   \
        return factory_(env_, config_, call_);                                                               \
    }                                                                                                        \
    GANTRY_PLUGIN_NOTE(kind_);                                                                               \
    extern "C" const struct gantry_plugin_entry gantry_plugin_entry = {                                      \
        {'G', 'A', 'N', 'T', 'R', 'Y', 1, '\n'},                                                             \
        GANTRY_ABI_MAJOR,                                                                                    \
        GANTRY_ABI_MINOR,                                                                                    \
        sizeof(struct gantry_plugin_entry),                                                                  \
        kind_,                                                                                               \
        name_,                                                                                               \
        version_,                                                                                            \
        text_,                                                                                               \
        "",                                                                                                  \
        ::std::data(options_),                                                                               \
        static_cast<uint32_t>(::std::size(options_)),                                                        \
        ability_count_,                                                                                      \
        abilities_,                                                                                          \
        &table_,                                                                                             \
        &::gantry::detail::init,                                                                             \
        &::gantry::detail::deinit,                                                                           \
        &::gantry::detail::create<driver_, &gantry_make_driver_>,                                            \
        &::gantry::detail::destroy<driver_>}

// (name, version, description, options, factory), once, at file scope.
#define GANTRY_STORAGE_PLUGIN(...)                                                                           \
    GANTRY_PLUGIN_ENTRY_(GANTRY_KIND_STORAGE, ::gantry::StorageDriver, ::gantry::detail::kStorageTable,      \
                         ::gantry::detail::kAbilities, 1, __VA_ARGS__)
// The same for a driver that implements changes() natively.
#define GANTRY_STORAGE_PLUGIN_WITH_DIFF(...)                                                                 \
    GANTRY_PLUGIN_ENTRY_(GANTRY_KIND_STORAGE, ::gantry::StorageDriver, ::gantry::detail::kStorageTable,      \
                         ::gantry::detail::kStorageDiffAbilities, 2, __VA_ARGS__)
#define GANTRY_NETWORK_PLUGIN(...)                                                                           \
    GANTRY_PLUGIN_ENTRY_(GANTRY_KIND_NETWORK, ::gantry::NetworkDriver, ::gantry::detail::kNetworkTable,      \
                         ::gantry::detail::kAbilities, 1, __VA_ARGS__)
#define GANTRY_REGISTRY_PLUGIN(...)                                                                          \
    GANTRY_PLUGIN_ENTRY_(GANTRY_KIND_REGISTRY, ::gantry::RegistryDriver, ::gantry::detail::kRegistryTable,   \
                         ::gantry::detail::kAbilities, 1, __VA_ARGS__)
