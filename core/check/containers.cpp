// Containers and volumes: rows against directories.
#include "core/base/files.h"
#include "core/check/checker.h"
#include "core/config/config.h"
#include "core/container/containers.h"
#include "core/volume/volumes.h"

namespace gantry::check {
namespace {

template <typename Names> std::set<std::string> not_in(const std::string &folder, Names names) {
    std::set<std::string> out;
    for (const std::string &name : list_directory(folder))
        out.insert(name);
    for (const std::string &name : names())
        out.erase(name);
    return out;
}

} // namespace

void check_containers(Checker &c) {
    Containers &containers = *c.parts.containers;
    const std::string root = c.parts.config->root;
    const auto ids = [&] { return containers.ids(); }; // also of those that are being made
    for (const ContainerInfo &info : containers.list(true)) {
        ++c.sum.containers;
        const std::string name = info.name.starts_with("/") ? info.name.substr(1) : info.name;
        const std::string folder = root + "/containers/" + info.id;
        if (!path_exists(folder) && containers.ids().contains(info.id))
            c.problem("containers", name, "has no directory: what it logged is lost", "", [&] {
                make_directories(folder, 0710);
                return std::string("made an empty one");
            });
        if (info.state.dead)
            c.problem("containers", name, "cannot be read: " + info.state.error,
                      "remove it: gantry rm " + name);
        else if (info.layer.empty() && info.state.status != "removing")
            c.problem("containers", name, "has no layer", "remove it: gantry rm " + name);
    }
    for (const std::string &id : twice([&] { return not_in(root + "/containers", ids); }))
        c.problem("containers", id.substr(0, 12), "is a directory of no container (logs and the like)", "",
                  [&] {
                      remove_tree(root + "/containers/" + id);
                      return std::string("removed");
                  });

    for (const Volume &volume : c.parts.volumes->list()) {
        ++c.sum.volumes;
        if (path_exists(volume.mountpoint)) continue;
        c.problem("volumes", volume.name, "has no directory: its content is lost", "", [&] {
            make_directories(volume.mountpoint, 0755);
            return std::string("made an empty one");
        });
    }
    const auto names = [&] {
        std::set<std::string> out;
        for (const Volume &volume : c.parts.volumes->list())
            out.insert(volume.name);
        return out;
    };
    // It may hold what nobody has elsewhere, so it is kept and made known.
    for (const std::string &name : twice([&] { return not_in(root + "/volumes", names); }))
        c.problem("volumes", name, "is a directory that no record knows", "", [&] {
            c.parts.volumes->recover();
            return std::string("made a volume again");
        });
}

} // namespace gantry::check
