// What the three proxies share: one call into a plugin, and sinks that stay whole whatever it does.
#pragma once

#include "core/plugin/load.h"

#include <gantry/convert.hpp>
#include <gantry/thunk.hpp>

#include <exception>

namespace gantry {

/// Runs a plugin's function; an exception that crosses the edge against the contract becomes kInternal.
template <typename F> gantry_status no_throw(const char *plugin, F &&work) {
    try {
        return work();
    } catch (...) {
        throw Error(ErrorClass::kInternal,
                    std::string("plugin ") + plugin + ": an exception crossed its edge",
                    "this is a bug of the plugin; report it to its author");
    }
}

/// What a call does, put into words only when it fails: building the sentence cost more than the call.
struct Doing {
    const char *verb;
    std::string_view object{};

    Doing(const char *verb, std::string_view object = {}) : verb(verb), object(object) {}
    std::string text(const char *driver) const {
        return verb + std::string(object) + " (driver " + driver + ")";
    }
};

class ProxyBase {
  protected:
    explicit ProxyBase(std::shared_ptr<Instance> instance) : instance_(std::move(instance)) {}

    gantry_driver *driver() const { return instance_->driver; }
    template <typename Table> const Table &table() const { return instance_->table<Table>(); }

    /// Calls `work(raw call)`; a failure of `caught` (the sink's own) wins over the plugin's words.
    template <typename F>
    void invoke(const Call &call, const Doing &doing, F &&work, std::exception_ptr *caught = nullptr) const {
        detail::SubCall sub(call.raw());
        const char *name = instance_->plugin->entry.name;
        const gantry_status status = no_throw(name, [&] { return work(sub.raw()); });
        if (caught && *caught) std::rethrow_exception(*caught);
        if (status != GANTRY_OK) sub.check(status, doing.text(name));
    }

    Error bad(const std::string &what) const {
        return {ErrorClass::kInternal, "plugin " + instance_->name() + ": " + what,
                "this is a bug of the plugin; report it to its author"};
    }
    [[noreturn]] void fail(const std::string &what) const { throw bad(what); }
    std::string required(const char *text, const char *what, size_t limit = 65536) const {
        if (!text) fail(std::string("handed over no ") + what);
        if (strnlen(text, limit + 1) > limit) fail(std::string("handed over an endless ") + what);
        return text;
    }
    template <typename T> const T &whole(const T *raw, const char *what) const {
        if (!raw || raw->struct_size < sizeof(T)) fail(std::string("handed over no whole ") + what);
        return *raw;
    }

    std::shared_ptr<Instance> instance_;
};

/// Context of a sink: what it fills, and the exception that ended it.
template <typename Self, typename Out> struct Collect {
    const Self *self;
    Out out{};
    std::exception_ptr caught{};
    uint32_t calls = 0;

    template <typename F> static gantry_status run(void *ctx, F &&work) noexcept {
        auto &c = *static_cast<Collect *>(ctx);
        if (c.caught) return GANTRY_INTERNAL; // it was told to stop and goes on
        try {
            ++c.calls;
            work(c);
            return GANTRY_OK;
        } catch (const Error &e) {
            c.caught = std::current_exception();
            return e.status();
        } catch (...) {
            c.caught = std::current_exception();
            return GANTRY_INTERNAL;
        }
    }
};

template <typename Sink> Sink sink_for(void *ctx) {
    Sink sink{};
    sink.struct_size = sizeof sink;
    sink.ctx = ctx;
    return sink;
}

constexpr size_t kListLimit = 1u << 20; // elements that a plugin may hand over in one call

} // namespace gantry
