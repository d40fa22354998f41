// The watch on libvirt's test driver, whose domains are this process's own.
#include "migration/libvirt_watch.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <fstream>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "migration/libvirt_library.h"
#include "tests/fakes/temp_dir.h"

namespace everport::migration {
namespace {

using libvirt::Connection;
using libvirt::DomainRef;

constexpr char kUri[] = "test:///default";
constexpr absl::Duration kNever = absl::Hours(1);

// Of what has been reported, in order.
class Reports {
 public:
  std::function<void(Sighting)> Taker() {
    return [this](Sighting sighting) {
      const std::lock_guard lock(mutex_);
      all_.push_back(std::move(sighting));
      changed_.notify_all();
    };
  }
  // The first one from `from` on that is so; false: there was none within 20 seconds.
  bool Await(const std::function<bool(const Sighting&)>& accept, size_t from = 0) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20), [&] {
      return std::any_of(all_.begin() + std::min(from, all_.size()), all_.end(), accept);
    });
  }
  bool AwaitCount(size_t count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20), [&] { return all_.size() >= count; });
  }
  size_t count() {
    const std::lock_guard lock(mutex_);
    return all_.size();
  }
  Sighting at(size_t index) {
    const std::lock_guard lock(mutex_);
    return all_.at(index);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Sighting> all_;
};

const SeenDomain* Find(const Sighting& sighting, const std::string& name) {
  const auto found = std::find_if(sighting.domains.begin(), sighting.domains.end(),
                                  [&](const SeenDomain& domain) { return domain.domain.name == name; });
  return found == sighting.domains.end() ? nullptr : &*found;
}
auto Has(const std::string& name, bool active = true) {
  return [=](const Sighting& sighting) {
    const SeenDomain* const domain = Find(sighting, name);
    return domain && domain->active == active;
  };
}
auto HasNot(const std::string& name) {
  return [=](const Sighting& sighting) { return sighting.status.ok() && !Find(sighting, name); };
}

std::string Xml(const std::string& name) {
  return absl::StrCat("<domain type='test'><name>", name,
                      "</name><memory>8192</memory><os><type>hvm</type></os><devices><interface type='vhostuser'>"
                      "<mac address='52:54:00:00:00:0a'/><source type='unix' path='/run/vms/",
                      name, ".sock' mode='server'/><model type='virtio'/></interface></devices></domain>");
}

int Ignore(virConnectPtr, virDomainPtr, int, int, void*) {
  return 0;
}

class LibvirtWatch : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const auto loaded = libvirt::Load();
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    lib_ = *loaded;
    auto connection = libvirt::Open(*lib_, kUri, absl::Seconds(5));
    ASSERT_TRUE(connection.ok()) << connection.status();
    connection_ = *std::move(connection);
    // All connections to it are one. If the last of its callbacks goes while an event is on its way, no event comes any
    // more (seen with libvirt 9.0): so there is always one.
    lib_->virConnectDomainEventRegisterAny(connection_.get(), nullptr, VIR_DOMAIN_EVENT_ID_LIFECYCLE,
                                           VIR_DOMAIN_EVENT_CALLBACK(Ignore), nullptr, nullptr);
  }
  static void TearDownTestSuite() { connection_.reset(); }
  void SetUp() override { ASSERT_NE(connection_, nullptr); }
  // What everport itself has no use for.
  template <typename Function>
  Function* Get(const char* name) const {
    return reinterpret_cast<Function*>(::dlsym(::dlopen("libvirt.so.0", RTLD_NOW), name));
  }
  DomainRef Own(virDomainPtr domain) const { return DomainRef(domain, lib_->virDomainFree); }
  DomainRef Create(const std::string& name) const {
    return Own(Get<decltype(::virDomainCreateXML)>("virDomainCreateXML")(connection_.get(), Xml(name).c_str(), 0));
  }
  DomainRef Define(const std::string& name, bool autostart) const {
    DomainRef domain =
        Own(Get<decltype(::virDomainDefineXML)>("virDomainDefineXML")(connection_.get(), Xml(name).c_str()));
    Get<decltype(::virDomainSetAutostart)>("virDomainSetAutostart")(domain.get(), autostart);
    return domain;
  }
  void Undefine(const DomainRef& domain) const {
    Get<decltype(::virDomainUndefine)>("virDomainUndefine")(domain.get());
  }
  std::unique_ptr<DomainSource> Watch(const std::string& uri = kUri) {
    return WatchDomains({.uri = uri,
                         .timeout = absl::Seconds(10),
                         .read_timeout = absl::Seconds(10),
                         .first_retry = absl::Milliseconds(20),
                         .longest_retry = absl::Milliseconds(100),
                         .patience = kNever},  // what comes, comes by events
                        reports_.Taker());
  }

  static inline const libvirt::Lib* lib_ = nullptr;
  static inline Connection connection_;
  Reports reports_;
};

TEST_F(LibvirtWatch, TellsOfADomainsComingAndGoing) {
  const auto watch = Watch();
  ASSERT_TRUE(reports_.Await(HasNot("vm1")));
  const DomainRef domain = Create("vm1");
  ASSERT_NE(domain, nullptr);
  ASSERT_TRUE(reports_.Await(Has("vm1")));
  const Sighting last = reports_.at(reports_.count() - 1);
  const SeenDomain* const seen = Find(last, "vm1");
  ASSERT_NE(seen, nullptr);
  EXPECT_TRUE(seen->status.ok()) << seen->status;
  EXPECT_EQ(seen->uuid.size(), 36u);
  ASSERT_EQ(seen->domain.nics.size(), 1u);
  EXPECT_EQ(seen->domain.nics[0].socket, "/run/vms/vm1.sock");
  const size_t before = reports_.count();
  lib_->virDomainDestroy(domain.get());
  EXPECT_TRUE(reports_.Await(HasNot("vm1"), before));
}

TEST_F(LibvirtWatch, TellsOfDomainsThatStartWithLibvirtAndOfNoOthersThatDoNotRun) {
  const DomainRef later = Define("later", true), never = Define("never", false);
  ASSERT_TRUE(later && never);
  const auto watch = Watch();
  EXPECT_TRUE(reports_.Await(Has("later", false)));
  EXPECT_EQ(Find(reports_.at(0), "never"), nullptr);
  Undefine(never);
  Undefine(later);
  EXPECT_TRUE(reports_.Await(HasNot("later")));
}

TEST_F(LibvirtWatch, LooksWhenItIsNudged) {
  const auto watch = Watch();
  ASSERT_TRUE(reports_.AwaitCount(1));
  watch->Nudge();
  EXPECT_TRUE(reports_.AwaitCount(2));
}

TEST_F(LibvirtWatch, ReportsNothingAfterItsEnd) {
  auto watch = Watch();
  ASSERT_TRUE(reports_.AwaitCount(1));
  watch.reset();
  const size_t before = reports_.count();
  Reports others;
  const auto another = WatchDomains({.uri = kUri, .patience = kNever}, others.Taker());
  ASSERT_TRUE(others.AwaitCount(1));
  const DomainRef domain = Create("vm2");
  EXPECT_TRUE(others.Await(Has("vm2")));
  EXPECT_EQ(reports_.count(), before);
  lib_->virDomainDestroy(domain.get());
}

TEST_F(LibvirtWatch, TriesAgainUntilLibvirtIsReached) {
  const fakes::TempDir dir;
  const auto watch = Watch(absl::StrCat("test://", dir / "node.xml"));
  ASSERT_TRUE(reports_.AwaitCount(3));
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_THAT(std::string(reports_.at(i).status.message()), ::testing::HasSubstr("is its libvirtd running"));
    EXPECT_TRUE(reports_.at(i).domains.empty());
  }
  dir.Write("node.xml", absl::StrCat("<node>", Xml("vm1"), "</node>"));
  EXPECT_TRUE(reports_.Await(Has("vm1")));
}

}  // namespace
}  // namespace everport::migration
