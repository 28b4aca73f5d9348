// Keys live in the engine's database under the plugin's name. No sink of the plugin is called inside a
// transaction: rows are copied out first.
#include "core/plugin/services.h"

#include "core/base/log.h"
#include "core/store/db.h"

#include <algorithm>
#include <cstring>
#include <gantry/thunk.hpp>
#include <mutex>
#include <optional>

namespace gantry {
namespace {

constexpr size_t kKeyLimit = 512, kValueLimit = 1u << 20, kWriteLimit = 4096;

std::string good_key(const char *key) {
    const size_t size = key ? strnlen(key, kKeyLimit + 1) : 0;
    if (size == 0 || size > kKeyLimit)
        throw Error(ErrorClass::kInvalidArgument, "use plugin key: it must have 1 to 512 bytes");
    return {key, size};
}

std::optional<std::string> get(Db &db, const std::string &plugin, const std::string &key) {
    Statement s = db.prepare("SELECT value FROM plugin_kv WHERE plugin=? AND key=?");
    s.bind_all(std::string_view(plugin), std::string_view(key));
    if (!s.step()) return std::nullopt;
    return s.text(0);
}

} // namespace

void LentBlobs::lend(Open open) {
    const std::unique_lock lock(mutex_);
    open_ = std::move(open);
}

UniqueFd LentBlobs::open(const std::string &digest, uint64_t &size) const {
    const std::shared_lock lock(mutex_);
    if (!open_)
        throw Error(ErrorClass::kUnavailable, "open blob " + digest + ": the engine's store is not open");
    return open_(digest, size);
}

PluginServices::PluginServices(std::string plugin, Db *db, std::shared_ptr<const LentBlobs> blobs)
    : plugin_(std::move(plugin)), blobs_(std::move(blobs)), db_(db) {
    host_.struct_size = sizeof host_;
    host_.abi_major = GANTRY_ABI_MAJOR;
    host_.abi_minor = GANTRY_ABI_MINOR;
    host_.ctx = this;
    host_.log = [](void *ctx, int32_t level, const char *message) {
        const auto l = static_cast<LogLevel>(std::clamp(level, 0, 3));
        if (!log_enabled(l) || !message) return;
        try {
            log_line(l, of(ctx).plugin_ + ": " + std::string(message, strnlen(message, 8192)));
        } catch (...) { // out of memory: a log line is not worth more
        }
    };
    host_.kv_get = [](void *ctx, const gantry_call *call, const char *key, const gantry_byte_sink *sink) {
        return detail::guard(call, [&] {
            const std::string name = good_key(key);
            std::optional<std::string> value;
            of(ctx).transact([&](Db &db) { value = get(db, of(ctx).plugin_, name); });
            if (!value) throw Error(ErrorClass::kNotFound, "read plugin key " + name + ": not set");
            detail::check_sink(sink->write(sink->ctx, value->data(), value->size()));
        });
    };
    host_.kv_apply = [](void *ctx, const gantry_call *call, const gantry_kv_write *writes, uint32_t count) {
        return detail::guard(call, [&] {
            if (count > kWriteLimit)
                throw Error(ErrorClass::kInvalidArgument, "write plugin keys: too many in one transaction");
            of(ctx).transact([&](Db &db) {
                const std::string &plugin = of(ctx).plugin_;
                // All expectations are judged against the state before the first write.
                for (uint32_t i = 0; i < count; ++i) {
                    const gantry_kv_write &w = writes[i];
                    if (!w.expect) continue;
                    const std::string key = good_key(w.key);
                    const std::optional<std::string> present = get(db, plugin, key);
                    const bool holds =
                        w.expect_size == SIZE_MAX
                            ? !present
                            : present && *present == std::string_view(static_cast<const char *>(w.expect),
                                                                      w.expect_size);
                    if (!holds)
                        throw Error(ErrorClass::kFailedPrecondition,
                                    "write plugin key " + key + ": its value has changed");
                }
                for (uint32_t i = 0; i < count; ++i) {
                    const gantry_kv_write &w = writes[i];
                    const std::string key = good_key(w.key);
                    if (w.value_size > kValueLimit)
                        throw Error(ErrorClass::kInvalidArgument,
                                    "write plugin key " + key + ": the value is larger than 1 MiB");
                    if (w.value) {
                        Statement s =
                            db.prepare("INSERT OR REPLACE INTO plugin_kv(plugin,key,value) VALUES(?,?,?)");
                        s.bind_all(std::string_view(plugin), std::string_view(key));
                        s.bind_blob(3, {static_cast<const char *>(w.value), w.value_size});
                        s.run();
                    } else {
                        Statement s = db.prepare("DELETE FROM plugin_kv WHERE plugin=? AND key=?");
                        s.bind_all(std::string_view(plugin), std::string_view(key));
                        s.run();
                    }
                }
            });
        });
    };
    host_.kv_list = [](void *ctx, const gantry_call *call, const char *prefix,
                       const gantry_string_sink *sink) {
        return detail::guard(call, [&] {
            const std::string start = prefix ? std::string(prefix, strnlen(prefix, kKeyLimit)) : "";
            std::vector<std::string> keys;
            of(ctx).transact([&](Db &db) {
                keys.clear();
                Statement s = db.prepare("SELECT key FROM plugin_kv WHERE plugin=? AND key>=? ORDER BY key");
                s.bind_all(std::string_view(of(ctx).plugin_), std::string_view(start));
                while (s.step()) {
                    std::string key = s.text(0);
                    if (!key.starts_with(start)) break;
                    keys.push_back(std::move(key));
                }
            });
            for (const std::string &key : keys)
                detail::check_sink(sink->add(sink->ctx, key.c_str()));
        });
    };
    host_.run = [](void *, const gantry_call *call, const char *const *argv, const void *input,
                   size_t input_size, const gantry_byte_sink *out, const gantry_byte_sink *err,
                   int32_t *exit_code) {
        return run_program(call, argv, input, input_size, out, err, exit_code);
    };
    host_.count = [](void *ctx, const char *name, int64_t delta) {
        if (Cell *c = of(ctx).cell(name)) c->value.fetch_add(delta, std::memory_order_relaxed);
    };
    host_.gauge = [](void *ctx, const char *name, int64_t value) {
        if (Cell *c = of(ctx).cell(name)) c->value.store(value, std::memory_order_relaxed);
    };
    host_.blob_open = [](void *ctx, const gantry_call *call, const char *digest, int32_t *fd,
                         uint64_t *size) {
        return detail::guard(call, [&] {
            *fd = -1;
            const std::string name(digest ? digest : "", digest ? strnlen(digest, 256) : 0);
            if (!of(ctx).blobs_)
                throw Error(ErrorClass::kUnsupported, "open blob " + name + ": this host keeps no blobs");
            *fd = of(ctx).blobs_->open(name, *size).release();
        });
    };
}

void PluginServices::transact(const std::function<void(Db &)> &work) {
    const std::shared_lock lock(db_mutex_);
    if (!db_) throw Error(ErrorClass::kFailedPrecondition, "use plugin keys: no engine database is open");
    db_->transact(work);
}

void PluginServices::close() noexcept {
    const std::unique_lock lock(db_mutex_);
    db_ = nullptr;
}

PluginServices::~PluginServices() {
    for (Cell &c : cells_)
        std::free(const_cast<char *>(c.name.load()));
}

/// Cells are only ever added, so a scan without lock meets a name twice at most as "not yet there".
PluginServices::Cell *PluginServices::cell(const char *name) noexcept {
    if (!name || strnlen(name, 65) > 64) return nullptr;
    for (Cell &c : cells_) {
        const char *have = c.name.load(std::memory_order_acquire);
        if (!have) {
            char *copy = ::strdup(name);
            if (!copy) return nullptr;
            if (c.name.compare_exchange_strong(have, copy, std::memory_order_acq_rel)) return &c;
            std::free(copy); // another thread took the cell; `have` is its name now
        }
        if (std::strcmp(have, name) == 0) return &c;
    }
    return nullptr;
}

std::vector<std::pair<std::string, int64_t>> PluginServices::metrics() const {
    std::vector<std::pair<std::string, int64_t>> out;
    for (const Cell &c : cells_)
        if (const char *name = c.name.load(std::memory_order_acquire))
            out.emplace_back("gantry_" + plugin_ + "_" + name, c.value.load(std::memory_order_relaxed));
    return out;
}

} // namespace gantry
