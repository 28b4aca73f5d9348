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
#include <gantry/value.hpp>

#include <functional>
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
    Output run(const Call &call, const std::vector<std::string> &argv,
               const std::string &input = {}) const;
    void count(const char *name, int64_t delta) const noexcept;
    void gauge(const char *name, int64_t value) const noexcept;

  private:
    const gantry_host *raw_;
};

/// The host that this plugin was initialised with (empty before init and in linked-in tests).
Host plugin_host() noexcept;

} // namespace gantry
