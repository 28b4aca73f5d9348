// The storage table over StorageDriver's virtual functions.
#include <gantry/plugin.hpp>

namespace gantry::detail {
namespace {

StorageDriver &of(gantry_driver *driver) { return *reinterpret_cast<StorageDriver *>(driver); }

LayerIds ids(const char *const *parents, uint32_t count) {
    LayerIds out;
    out.reserve(count);
    for (uint32_t i = 0; i < count; ++i)
        out.emplace_back(parents[i]);
    return out;
}

gantry_status caps(gantry_driver *driver, const gantry_call *call, gantry_storage_caps *out) {
    return guard(call, [&] {
        const StorageCaps c = of(driver).caps(Call(call));
        if (GANTRY_HAS(out, whiteout)) out->whiteout = c.whiteout;
        if (GANTRY_HAS(out, independent_layers)) out->independent_layers = c.independent_layers;
        if (GANTRY_HAS(out, idmapped)) out->idmapped = c.idmapped;
        if (GANTRY_HAS(out, quota)) out->quota = c.quota;
        if (GANTRY_HAS(out, reflink)) out->reflink = c.reflink;
        if (GANTRY_HAS(out, max_parents)) out->max_parents = c.max_parents;
    });
}

gantry_status create(gantry_driver *driver, const gantry_call *call, const char *id,
                     const gantry_storage_create *how) {
    return guard(call, [&] {
        of(driver).create(Call(call), id, ids(how->parents, how->parent_count),
                          GANTRY_HAS(how, size_limit) ? how->size_limit : 0);
    });
}

gantry_status mounts(gantry_driver *driver, const gantry_call *call, const char *id,
                     const char *const *parents, uint32_t parent_count, int32_t read_only,
                     const gantry_mount_sink *sink) {
    return guard(call, [&] {
        for (const Mount &m : of(driver).mounts(Call(call), id, ids(parents, parent_count), read_only != 0)) {
            std::vector<const char *> options;
            options.reserve(m.options.size());
            for (const std::string &o : m.options)
                options.push_back(o.c_str());
            gantry_mount raw{};
            raw.struct_size = sizeof raw;
            raw.read_only = m.read_only;
            raw.type = m.type.c_str();
            raw.source = m.source.c_str();
            raw.target = m.target.c_str();
            raw.options = options.data();
            raw.option_count = static_cast<uint32_t>(options.size());
            check_sink(sink->add(sink->ctx, &raw));
        }
    });
}

gantry_status commit(gantry_driver *driver, const gantry_call *call, const char *id,
                     const char *const *parents, uint32_t parent_count, int32_t durable) {
    return guard(call, [&] { of(driver).commit(Call(call), id, ids(parents, parent_count), durable != 0); });
}

gantry_status remove(gantry_driver *driver, const gantry_call *call, const char *id) {
    return guard(call, [&] { of(driver).remove(Call(call), id); });
}

gantry_status usage(gantry_driver *driver, const gantry_call *call, const char *id, gantry_usage *out) {
    return guard(call, [&] {
        const Usage u = of(driver).usage(Call(call), id);
        if (GANTRY_HAS(out, bytes)) out->bytes = u.bytes;
        if (GANTRY_HAS(out, inodes)) out->inodes = u.inodes;
    });
}

gantry_status list(gantry_driver *driver, const gantry_call *call, const gantry_string_sink *sink) {
    return guard(call, [&] {
        for (const std::string &id : of(driver).list(Call(call)))
            check_sink(sink->add(sink->ctx, id.c_str()));
    });
}

gantry_status changes(gantry_driver *driver, const gantry_call *call, const char *id,
                      const char *const *parents, uint32_t parent_count, const gantry_change_sink *sink) {
    return guard(call, [&] {
        of(driver).changes(Call(call), id, ids(parents, parent_count), [&](const Change &c) {
            check_sink(sink->add(sink->ctx, c.kind, c.path.c_str()));
        });
    });
}

} // namespace

const gantry_storage_v1 kStorageTable = {
    sizeof(gantry_storage_v1), 0, caps, create, mounts, commit, remove, usage, list};
const gantry_storage_diff_1 kStorageDiffTable = {sizeof(gantry_storage_diff_1), 0, changes};
const gantry_ability kStorageDiffAbilities[2] = {{GANTRY_STORAGE_DIFF_1, &kStorageDiffTable},
                                                 {GANTRY_PROBE_1, &kProbeTable}};

} // namespace gantry::detail
