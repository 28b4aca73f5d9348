// Typed options as a driver sees them, and constexpr makers for the schema. The core has validated
// everything: a getter that is asked for a wrong name or type throws kInternal.
#pragma once

#include <gantry/error.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace gantry {

/// A borrowed view of one gantry_value (a TABLE for a driver's whole configuration).
class Config {
  public:
    explicit Config(const gantry_value *raw) noexcept : raw_(raw) {}

    gantry_type type() const noexcept { return raw_->type; }
    bool has(std::string_view key) const noexcept { return find(key) != nullptr; }

    bool boolean(std::string_view key) const { return get(key, GANTRY_TYPE_BOOL).as.b != 0; }
    int64_t integer(std::string_view key) const { return get(key, GANTRY_TYPE_INT).as.i; }
    double number(std::string_view key) const { return get(key, GANTRY_TYPE_FLOAT).as.f; }
    std::string string(std::string_view key) const { return get(key, GANTRY_TYPE_STRING).as.s; }
    int64_t duration_ns(std::string_view key) const { return get(key, GANTRY_TYPE_DURATION).as.i; }
    int64_t size(std::string_view key) const { return get(key, GANTRY_TYPE_SIZE).as.i; }
    /// The table, list or map under `key`.
    Config child(std::string_view key) const {
        const gantry_value *v = find(key);
        if (!v) throw missing(key);
        return Config(v);
    }
    std::vector<std::string> strings(std::string_view key) const {
        const gantry_value &list = get(key, GANTRY_TYPE_LIST);
        std::vector<std::string> out;
        for (uint32_t i = 0; i < list.count; ++i)
            out.emplace_back(list.items[i].as.s);
        return out;
    }

    /// Elements of a LIST or MAP.
    uint32_t count() const noexcept { return raw_->count; }
    std::string key(uint32_t i) const { return raw_->keys[i]; }
    Config item(uint32_t i) const noexcept { return Config(&raw_->items[i]); }
    int64_t as_duration_ns() const noexcept { return raw_->type == GANTRY_TYPE_DURATION ? raw_->as.i : 0; }
    std::string as_string() const { return raw_->type == GANTRY_TYPE_STRING ? raw_->as.s : ""; }

  private:
    const gantry_value *find(std::string_view key) const noexcept {
        if (!raw_ || !raw_->keys) return nullptr;
        for (uint32_t i = 0; i < raw_->count; ++i)
            if (key == raw_->keys[i]) return &raw_->items[i];
        return nullptr;
    }
    const gantry_value &get(std::string_view key, gantry_type type) const {
        const gantry_value *v = find(key);
        if (!v || v->type != type) throw missing(key);
        return *v;
    }
    static Error missing(std::string_view key) {
        return {ErrorClass::kInternal,
                "read option " + std::string(key) + ": not in the validated configuration"};
    }

    const gantry_value *raw_;
};

constexpr gantry_option make_option(gantry_type type, const char *name, const char *default_toml,
                                    const char *doc, uint32_t flags = 0) {
    gantry_option o{};
    o.struct_size = sizeof(gantry_option);
    o.type = type;
    o.name = name;
    o.default_toml = default_toml;
    o.doc = doc;
    o.flags = flags;
    return o;
}
constexpr gantry_option option_bool(const char *name, const char *dflt, const char *doc) {
    return make_option(GANTRY_TYPE_BOOL, name, dflt, doc);
}
constexpr gantry_option option_int(const char *name, const char *dflt, int64_t min, int64_t max,
                                   const char *doc) {
    auto o = make_option(GANTRY_TYPE_INT, name, dflt, doc);
    o.min = min;
    o.max = max;
    return o;
}
constexpr gantry_option option_string(const char *name, const char *dflt, const char *doc,
                                      const char *const *choices = nullptr, uint32_t flags = 0) {
    auto o = make_option(GANTRY_TYPE_STRING, name, dflt, doc, flags);
    o.choices = choices;
    return o;
}
constexpr gantry_option option_duration(const char *name, const char *dflt, const char *doc) {
    return make_option(GANTRY_TYPE_DURATION, name, dflt, doc);
}
constexpr gantry_option option_size(const char *name, const char *dflt, const char *doc) {
    return make_option(GANTRY_TYPE_SIZE, name, dflt, doc);
}
constexpr gantry_option option_list(const char *name, const char *dflt, const gantry_option *element,
                                    const char *doc) {
    auto o = make_option(GANTRY_TYPE_LIST, name, dflt, doc);
    o.children = element;
    o.child_count = 1;
    return o;
}
constexpr gantry_option option_map(const char *name, const gantry_option *element, const char *doc) {
    auto o = make_option(GANTRY_TYPE_MAP, name, "{}", doc);
    o.children = element;
    o.child_count = 1;
    return o;
}
constexpr gantry_option option_table(const char *name, const gantry_option *keys, uint32_t key_count,
                                     const char *doc, const char *shorthand = nullptr) {
    auto o = make_option(GANTRY_TYPE_TABLE, name, nullptr, doc);
    o.children = keys;
    o.child_count = key_count;
    o.shorthand = shorthand;
    return o;
}

} // namespace gantry
