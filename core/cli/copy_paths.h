// The path rules of `docker cp`, apart from doing anything: which directory an archive is extracted in
// and how its entries are renamed, from what source and destination are and how they were spelt.
// A trailing "/" or "/." says "the directory" and "the directory's content".
#pragma once

#include <optional>
#include <string>
#include <utility>

namespace gantry::cli {

/// "CONTAINER:PATH" -> both; a local path (absolute, without ":", or "./x:y") gives "" for the container.
std::pair<std::string, std::string> split_copy_argument(const std::string &argument);

/// Lexical, as Go's filepath: no "//", ".", ".." or trailing slash; "" is ".".
std::string clean_lexically(const std::string &path);
/// The trailing "/" or "/." of `original` put back.
std::string keep_trailing(std::string cleaned, const std::string &original);
/// Parent and last component; of "a/." that is "a" and ".".
std::pair<std::string, std::string> split_entry(const std::string &path);
bool asserts_directory(const std::string &path);
std::string base_name(const std::string &path);

struct CopyEnd {
    std::string path;
    bool exists = false, is_directory = false;
    std::string rebase; // the name the entries carry, when it is not the path's own
};
/// Where to extract, and the prefix `from` of entry names that becomes `to` (nothing when both are "").
struct CopyPlan {
    std::string directory, from, to;
};
/// Throws ExitWith with docker's sentence when the two do not go together.
CopyPlan plan_copy(const CopyEnd &source, const CopyEnd &destination);
std::string rename_entry(const CopyPlan &plan, const std::string &name);

/// The path after links were followed to `resolved`, with what the original asserted; second: the name to
/// give the entries when following changed it.
std::pair<std::string, std::string> rebase_name(const std::string &path, std::string resolved);

/// Throws Error when it is not there.
CopyEnd local_source(const std::string &path, bool follow);
/// Follows links; the parent must be there.
CopyEnd local_destination(const std::string &path);

} // namespace gantry::cli
