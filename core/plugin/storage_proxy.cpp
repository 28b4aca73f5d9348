// StorageDriver over a loaded plugin's table.
#include "core/plugin/proxy.h"

#include <cstring>

namespace gantry {
namespace {

constexpr uint32_t kMountLimit = 4096;

/// Reading an enumeration that holds none of its values is undefined; its bytes are not.
template <typename Enum> uint32_t number(const Enum &value) {
    static_assert(sizeof value == sizeof(uint32_t));
    uint32_t out;
    std::memcpy(&out, &value, sizeof out);
    return out;
}

struct Parents {
    std::vector<const char *> raw;
    explicit Parents(const LayerIds &ids) {
        raw.reserve(ids.size());
        for (const std::string &id : ids)
            raw.push_back(id.c_str());
    }
    uint32_t count() const { return static_cast<uint32_t>(raw.size()); }
};

class StorageProxy : public StorageDriver, private ProxyBase {
  public:
    explicit StorageProxy(std::shared_ptr<Instance> instance) : ProxyBase(std::move(instance)) {}

    StorageCaps caps(const Call &call) override {
        gantry_storage_caps raw{};
        raw.struct_size = sizeof raw;
        invoke(call, "ask storage for its abilities", [&](auto *c) { return t().caps(driver(), c, &raw); });
        if (number(raw.whiteout) > GANTRY_WHITEOUT_AUFS) fail("names an unknown kind of whiteout");
        StorageCaps out;
        out.whiteout = raw.whiteout;
        out.independent_layers = raw.independent_layers != 0;
        out.idmapped = raw.idmapped != 0;
        out.quota = raw.quota != 0;
        out.reflink = raw.reflink != 0;
        out.max_parents = raw.max_parents;
        return out;
    }

    void create(const Call &call, const std::string &id, const LayerIds &parents,
                uint64_t size_limit) override {
        const Parents p(parents);
        const gantry_storage_create how{sizeof how, p.count(), p.raw.data(), size_limit};
        invoke(call, {"create layer ", id},
               [&](auto *c) { return t().create(driver(), c, id.c_str(), &how); });
    }

    std::vector<Mount> mounts(const Call &call, const std::string &id, const LayerIds &parents,
                              bool read_only) override {
        using Into = Collect<StorageProxy, std::vector<Mount>>;
        Into into{this};
        auto sink = sink_for<gantry_mount_sink>(&into);
        sink.add = [](void *ctx, const gantry_mount *raw) {
            return Into::run(ctx, [&](Into &c) { c.self->add_mount(raw, c.out); });
        };
        const Parents p(parents);
        invoke(
            call, {"ask for the mounts of layer ", id},
            [&](auto *c) {
                return t().mounts(driver(), c, id.c_str(), p.raw.data(), p.count(), read_only, &sink);
            },
            &into.caught);
        if (into.out.empty()) fail("gave no mount for layer " + id);
        return std::move(into.out);
    }

    void commit(const Call &call, const std::string &id, const LayerIds &parents, bool durable) override {
        const Parents p(parents);
        invoke(call, {"commit layer ", id}, [&](auto *c) {
            return t().commit(driver(), c, id.c_str(), p.raw.data(), p.count(), durable);
        });
    }

    void remove(const Call &call, const std::string &id) override {
        invoke(call, {"remove layer ", id}, [&](auto *c) { return t().remove(driver(), c, id.c_str()); });
    }

    Usage usage(const Call &call, const std::string &id) override {
        gantry_usage raw{};
        raw.struct_size = sizeof raw;
        invoke(call, {"measure layer ", id},
               [&](auto *c) { return t().usage(driver(), c, id.c_str(), &raw); });
        // SQLite and JSON keep signed numbers; no layer is larger than an off_t.
        if (raw.bytes > INT64_MAX || raw.inodes > INT64_MAX) fail("gave an absurd size for layer " + id);
        return {raw.bytes, raw.inodes};
    }

    std::vector<std::string> list(const Call &call) override {
        using Into = Collect<StorageProxy, std::vector<std::string>>;
        Into into{this};
        auto sink = sink_for<gantry_string_sink>(&into);
        sink.add = [](void *ctx, const char *value) {
            return Into::run(ctx, [&](Into &c) {
                if (c.out.size() >= kListLimit) c.self->fail("lists too many layers");
                c.out.push_back(c.self->required(value, "layer id", 255));
            });
        };
        invoke(
            call, "list layers", [&](auto *c) { return t().list(driver(), c, &sink); }, &into.caught);
        return std::move(into.out);
    }

    bool has_changes() const override { return instance_->ability(GANTRY_STORAGE_DIFF_1) != nullptr; }

    void changes(const Call &call, const std::string &id, const LayerIds &parents,
                 const std::function<void(const Change &)> &each) override {
        const auto *diff =
            static_cast<const gantry_storage_diff_1 *>(instance_->ability(GANTRY_STORAGE_DIFF_1));
        if (!diff) return StorageDriver::changes(call, id, parents, each);
        using Into = Collect<StorageProxy, const std::function<void(const Change &)> *>;
        Into into{this, &each};
        auto sink = sink_for<gantry_change_sink>(&into);
        sink.add = [](void *ctx, gantry_change_kind kind, const char *path) {
            return Into::run(ctx, [&](Into &c) {
                if (number(kind) > GANTRY_CHANGE_DELETED) c.self->fail("named an unknown kind of change");
                Change change{kind, c.self->required(path, "path of a change")};
                if (change.path[0] != '/' || (change.path + "/").find("/../") != std::string::npos)
                    c.self->fail("named the impossible change " + change.path);
                (*c.out)(change);
            });
        };
        const Parents p(parents);
        invoke(
            call, {"list changes of layer ", id},
            [&](auto *c) { return diff->changes(driver(), c, id.c_str(), p.raw.data(), p.count(), &sink); },
            &into.caught);
    }

  private:
    template <typename Self, typename Out> friend struct Collect;
    const gantry_storage_v1 &t() const { return table<gantry_storage_v1>(); }

    void add_mount(const gantry_mount *raw, std::vector<Mount> &out) const {
        const gantry_mount &m = whole(raw, "mount");
        if (out.size() >= 1024 || m.option_count > kMountLimit || (m.option_count && !m.options))
            fail("handed over too many mounts or options");
        Mount mount;
        mount.type = required(m.type, "mount type", 64);
        mount.source = required(m.source, "mount source");
        mount.target = required(m.target, "mount target");
        for (uint32_t i = 0; i < m.option_count; ++i)
            mount.options.push_back(required(m.options[i], "mount option"));
        mount.read_only = m.read_only != 0;
        if (mount.type.empty() || ("/" + mount.target + "/").find("/../") != std::string::npos)
            fail("handed over an impossible mount");
        out.push_back(std::move(mount));
    }
};

} // namespace

std::shared_ptr<StorageDriver> make_storage_proxy(std::shared_ptr<Instance> instance) {
    return std::make_shared<StorageProxy>(std::move(instance));
}

} // namespace gantry
