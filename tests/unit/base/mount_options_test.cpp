#include "core/base/mount_options.h"

#include <gtest/gtest.h>
#include <memory>
#include <string>
#include <vector>

namespace gantry {
namespace {

struct Result {
    std::string folder;
    std::vector<std::string> pages;
    bool too_long = false;
};

Result pages_of(const std::vector<std::string> &options) {
    Result out;
    const auto pages = std::make_unique<mount_options::Pages>();
    const auto count = static_cast<unsigned>(options.size());
    const auto at = [&](unsigned i) { return options[i].c_str(); };
    pages->begin(count, at);
    out.folder = pages->folder;
    while (pages->fill(count, at, out.too_long))
        out.pages.emplace_back(pages->data);
    return out;
}

TEST(MountOptions, AClassicPageNamesLayersByTheirCommonFolder) {
    const Result r = pages_of({"lowerdir+=/r/o/b/fs", "lowerdir+=/r/o/a/fs", "upperdir=/r/o/c/fs",
                               "workdir=/r/o/c/work", "index=off", "volatile"});
    EXPECT_EQ(r.folder, "/r/o");
    EXPECT_EQ(r.pages,
              std::vector<std::string>{"lowerdir=b/fs:a/fs,upperdir=c/fs,workdir=c/work,index=off,volatile"});
    // "/r/ab" is not below "/r/a", and nothing in common means absolute names.
    EXPECT_EQ(pages_of({"lowerdir=/r/a/fs:/r/ab/fs"}).pages[0], "lowerdir=a/fs:ab/fs");
    EXPECT_EQ(pages_of({"lowerdir=/x/fs:/y/fs"}).pages[0], "lowerdir=/x/fs:/y/fs");
    EXPECT_EQ(pages_of({"lowerdir=/r/with\\:colon:/r/b"}).pages[0], "lowerdir=with\\:colon:b");
    EXPECT_EQ(pages_of({}).pages, std::vector<std::string>{""});
}

TEST(MountOptions, FiveHundredLayersFitAndMoreIsSaid) {
    std::vector<std::string> options;
    for (int i = 0; i < 499; ++i)
        options.push_back("lowerdir+=/var/lib/gantry/storage/overlay/" + std::to_string(i) + "/fs");
    options.push_back("upperdir=/var/lib/gantry/storage/overlay/top/fs");
    EXPECT_EQ(pages_of(options).pages.size(), 1u);
    for (int i = 0; i < 200; ++i)
        options.push_back("lowerdir+=/var/lib/gantry/storage/overlay/more" + std::to_string(i) + "/fs");
    EXPECT_TRUE(pages_of(options).too_long);
    EXPECT_TRUE(pages_of({"mode=" + std::string(5000, '7')}).too_long);
}

TEST(MountOptions, BranchesBeyondThePageAreAppendedLater) {
    std::vector<std::string> options{"br:/var/lib/gantry/storage/aufs/top/fs=rw", "dirperm1"};
    std::string all = options[0] + "," + options[1];
    for (int i = 0; i < 126; ++i) {
        options.push_back("append:/var/lib/gantry/storage/aufs/layer" + std::to_string(i) + "/fs=ro+wh");
        all += "," + options.back();
    }
    const Result r = pages_of(options);
    EXPECT_FALSE(r.too_long);
    EXPECT_EQ(r.folder, "");
    ASSERT_EQ(r.pages.size(), 2u);
    EXPECT_EQ(r.pages[0] + "," + r.pages[1], all);
    for (const auto &page : r.pages)
        EXPECT_LT(page.size(), 4096u);
}

TEST(MountOptions, SettingsAreSplitAsTheNewInterfaceWantsThem) {
    std::vector<std::string> seen;
    const auto set = [&](const char *key, const char *value) {
        seen.push_back(std::string(key) + (value ? std::string(" ") + value : ""));
        return seen.size() == 3 ? -1 : 0;
    };
    EXPECT_EQ(mount_options::each_setting("volatile", set), 0);
    EXPECT_EQ(mount_options::each_setting("lowerdir=/a:/b\\:c:/d", set), -1);
    EXPECT_EQ(mount_options::each_setting("lowerdir+=/a:b", set), 0);
    EXPECT_EQ(seen,
              (std::vector<std::string>{"volatile", "lowerdir+ /a", "lowerdir+ /b:c", "lowerdir+ /a:b"}));
}

} // namespace
} // namespace gantry
