// The rules of `docker cp` for what goes where (moby pkg/archive/copy.go).
#include "core/cli/client.h"
#include "core/cli/copy_paths.h"

#include <gtest/gtest.h>

namespace gantry::cli {
namespace {

using Pair = std::pair<std::string, std::string>;

TEST(CopyPaths, ArgumentsAreContainersOrLocal) {
    EXPECT_EQ(split_copy_argument("web:/etc"), Pair("web", "/etc"));
    EXPECT_EQ(split_copy_argument("web:rel:x"), Pair("web", "rel:x"));
    EXPECT_EQ(split_copy_argument("/tmp/a:b"), Pair("", "/tmp/a:b"));
    EXPECT_EQ(split_copy_argument("./a:b"), Pair("", "./a:b"));
    EXPECT_EQ(split_copy_argument("../a:b"), Pair("", "../a:b"));
    EXPECT_EQ(split_copy_argument("plain"), Pair("", "plain"));
    EXPECT_EQ(split_copy_argument("-"), Pair("", "-"));
}

TEST(CopyPaths, SpellingIsKept) {
    EXPECT_EQ(keep_trailing("/a", "a/"), "/a/");
    EXPECT_EQ(keep_trailing("/a", "a/."), "/a/.");
    EXPECT_EQ(keep_trailing("/", "/."), "/.");
    EXPECT_EQ(keep_trailing("/a", "./a"), "/a");
    EXPECT_EQ(split_entry("/a/b/"), Pair("/a", "b"));
    EXPECT_EQ(split_entry("/a/b/."), Pair("/a/b", "."));
    EXPECT_EQ(split_entry("/"), Pair("/", "/"));
    EXPECT_EQ(split_entry("name"), Pair(".", "name"));
    EXPECT_EQ(clean_lexically("/a//b/../c/./"), "/a/c");
    EXPECT_EQ(clean_lexically("../x/.."), "..");
    EXPECT_EQ(clean_lexically("/.."), "/");
    EXPECT_EQ(rebase_name("/x/link/", "/y/real"), Pair("/y/real/", "link"));
    EXPECT_EQ(rebase_name("/x/same", "/y/same"), Pair("/y/same", ""));
}

std::string plan(const CopyEnd &from, const CopyEnd &to, const std::string &entry) {
    try {
        const CopyPlan plan = plan_copy(from, to);
        return plan.directory + " " + rename_entry(plan, entry);
    } catch (const ExitWith &error) {
        return error.what();
    }
}

TEST(CopyPaths, WhatGoesWhere) {
    const CopyEnd file{"/s/f", true, false, ""}, dir{"/s/d", true, true, ""},
        content{"/s/d/.", true, true, ""};
    const CopyEnd there{"/t/x", true, true, ""}, taken{"/t/x", true, false, ""},
        fresh{"/t/x", false, false, ""}, slash{"/t/x/", false, false, ""};
    EXPECT_EQ(plan(file, there, "f"), "/t/x f");
    EXPECT_EQ(plan(file, taken, "f"), "/t x");
    EXPECT_EQ(plan(file, fresh, "f"), "/t x");
    EXPECT_EQ(plan(file, slash, "f"), "no such directory");
    EXPECT_EQ(plan(dir, there, "d/a"), "/t/x d/a");
    EXPECT_EQ(plan(dir, taken, "d/a"), "cannot copy directory");
    EXPECT_EQ(plan(dir, fresh, "d/a"), "/t x/a");
    EXPECT_EQ(plan(dir, slash, "d/"), "/t x");
    EXPECT_EQ(plan(content, there, "./a"), "/t/x ./a");
    EXPECT_EQ(plan(content, fresh, "./a"), "/t x/a");
    EXPECT_EQ(plan(content, fresh, "./"), "/t x");
    EXPECT_EQ(plan({"/", true, true, ""}, fresh, "/etc/x"), "/t x/etc/x");
    EXPECT_EQ(plan({"/s/link", true, false, "name"}, fresh, "name"), "/t x");
    // A name that merely begins alike is another.
    EXPECT_EQ(plan(dir, fresh, "dd/a"), "/t dd/a");
}

} // namespace
} // namespace gantry::cli
