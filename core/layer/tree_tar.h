// A directory tree, or what changed in one, as a tar stream: the input of commit, export, copying and
// migration. The tree may belong to a running and hostile container: every name is opened without
// following links, and what is opened is looked at again before it is read. A file that changes
// meanwhile keeps the size its header announced.
#pragma once

#include "core/layer/tar_writer.h"

#include <gantry/storage.hpp>

#include <functional>
#include <map>
#include <set>
#include <string>
#include <sys/stat.h>

namespace gantry {

struct TreeTarOptions {
    /// Told what could not be stored as it is ("/run/x: sockets cannot be stored").
    std::function<void(const std::string &)> notice;
    /// Called between entries; throws to end.
    std::function<void()> check;
    /// False: the directory is listed without its content.
    std::function<bool(int directory)> enter;
    /// Layers: keep capabilities and user attributes. Off for copies to hosts that may not have them.
    bool xattrs = true;
};

class TreeTar {
  public:
    TreeTar(ByteSink sink, TreeTarOptions options);
    /// What `name` in the directory is, with everything below it when `deep`, stored as `stored`. A
    /// name that is gone is no error: live trees change. False then.
    bool add(int directory, const std::string &name, const std::string &stored, bool deep);
    /// The content of a directory, names stored behind `prefix` ("" or ending in "/").
    void add_children(int directory, const std::string &prefix);
    /// ".wh." of a path that a layer deletes.
    void whiteout(const std::string &stored);
    void finish() { writer_.finish(); }

  private:
    void add_below(int directory, const std::string &prefix, int depth);
    bool add_entry(int directory, const std::string &name, const std::string &stored, bool deep, int depth);
    void note(const std::string &what) const {
        if (options_.notice) options_.notice(what);
    }

    TarWriter writer_;
    TreeTarOptions options_;
    std::map<std::pair<dev_t, ino_t>, std::string> links_; // names of files with several
};

/// Order of changes: parents before children, siblings by name.
bool before(const Change &a, const Change &b);

/// A layer: the changes read from `root` (a tree that shows the state after them), as OCI layers say it
/// (image-spec layer.md). Sorted, so that equal changes give equal bytes; directories above a change are
/// always in it, because unpacking would make missing ones with attributes of its own. The path "/"
/// stands for the root's attributes. Returns the number of changes stored.
size_t write_changes_tar(int root, std::vector<Change> changes, const ByteSink &sink,
                         const TreeTarOptions &options);
/// The whole tree. The root itself is in it only when it is not root's own 0755.
void write_tree_tar(int root, const ByteSink &sink, const TreeTarOptions &options);

} // namespace gantry
