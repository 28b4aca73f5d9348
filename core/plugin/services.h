// What the host lends to one plugin: log, keys and values, helper programs, counters, blobs.
#pragma once

#include "core/base/fd.h"

#include <gantry/abi.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <shared_mutex>
#include <string>
#include <utility>
#include <vector>

namespace gantry {

class Db;

/// The engine's blobs as plugins get them. Plugins start before the content store and end after it, so it is
/// lent in between. Thread-safe.
class LentBlobs {
  public:
    /// A whole, verified blob to read, with its size; throws kNotFound.
    using Open = std::function<UniqueFd(const std::string &digest, uint64_t &size)>;
    /// Null takes it back, and waits for those who open one just now.
    void lend(Open open);
    /// kUnavailable while nothing is lent.
    UniqueFd open(const std::string &digest, uint64_t &size) const;

  private:
    mutable std::shared_mutex mutex_;
    Open open_;
};

/// Lives as long as the plugin is initialised; its address is handed to the plugin.
class PluginServices {
  public:
    /// `blobs` null: this host keeps none.
    PluginServices(std::string plugin, Db *db, std::shared_ptr<const LentBlobs> blobs = nullptr);
    ~PluginServices();
    PluginServices(const PluginServices &) = delete;
    PluginServices &operator=(const PluginServices &) = delete;

    const gantry_host *raw() const noexcept { return &host_; }
    std::vector<std::pair<std::string, int64_t>> metrics() const;
    /// The database goes; a call that was given up may still ask for it.
    void close() noexcept;

  private:
    struct Cell {
        std::atomic<const char *> name{nullptr};
        std::atomic<int64_t> value{0};
    };
    static PluginServices &of(void *ctx) { return *static_cast<PluginServices *>(ctx); }
    Cell *cell(const char *name) noexcept;
    void transact(const std::function<void(Db &)> &work);

    std::string plugin_;
    const std::shared_ptr<const LentBlobs> blobs_;
    std::shared_mutex db_mutex_; // shared while the database is in use
    Db *db_;
    gantry_host host_{};
    std::array<Cell, 128> cells_;
};

/// gantry_host::run without its table.
gantry_status run_program(const gantry_call *call, const char *const *argv, const void *input,
                          size_t input_size, const gantry_byte_sink *out, const gantry_byte_sink *err,
                          int32_t *exit_code);

} // namespace gantry
