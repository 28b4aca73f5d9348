// Edits as values, so that a driver's tree and a plain directory get the very same ones, and a failure can
// be told as a list. Each settles the times of what it touched: after it, equal trees are equal to the
// nanosecond.
#pragma once

#include <random>
#include <string>
#include <vector>

namespace gantry::kit {

struct Edit {
    enum Kind {
        kDirectory,
        kFile,   // new or replaced content of `value` bytes
        kAppend, // to a file with one name
        kSparse, // data at both ends of a hole
        kSymlink,
        kHardLink, // `path` becomes another name of `other`
        kDevice,
        kFifo,
        kRemove, // a tree too
        kRename, // `other` to `path`; no directory
        kMode,
        kOwner,
        kUserXattr,
        kCapability,
        kTouch,
        kReplaceDirectory, // removed and made anew: opaque where there are layers
    } kind;
    std::string path; // "/a/b"
    std::string other;
    unsigned value = 0;

    std::string text() const;
    /// False when the edit makes no sense there (a parent is missing, a directory is in the way).
    bool apply(int root) const;
};

/// `count` edits that apply one after the other to the tree at `root`, which they change on the way.
std::vector<Edit> random_edits(std::mt19937 &random, int root, int count);

} // namespace gantry::kit
