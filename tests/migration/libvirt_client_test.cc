// What becomes of the guest when libvirt leaves a migration half done; libvirt itself is a fake.
#include "migration/libvirt_client.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <libvirt/libvirt.h>

#include "tests/migration/fake_libvirt.h"

namespace everport::migration {
namespace {

FakeLibvirt& Fake() {
  static FakeLibvirt* const fake = [] {
    void* const library = ::dlopen("libvirt.so.0", RTLD_NOW);
    void* const find = library ? ::dlsym(library, "fake_libvirt") : nullptr;
    return find ? reinterpret_cast<decltype(&::fake_libvirt)>(find)() : nullptr;
  }();
  if (!fake) std::abort();  // the real one: LD_LIBRARY_PATH does not name the fake's folder
  return *fake;
}

class LibvirtClientTest : public testing::Test {
 protected:
  LibvirtClientTest() {
    const std::lock_guard lock(Fake().mutex);
    Fake().source = Fake().destination = {};
    Fake().source.state = VIR_DOMAIN_RUNNING;
    Fake().moved = Fake().aborts = false;
  }
  ~LibvirtClientTest() override { EndCall(); }
  template <typename Change>
  void With(const Change& change) {
    const std::lock_guard lock(Fake().mutex);
    change();
    Fake().changed.notify_all();
  }
  void EndCall() {
    With([] { Fake().migrating = false; });
  }
  // Until it is given up, with what happens once it is under way.
  absl::Status Migrate(const std::function<void()>& happens) {
    EXPECT_TRUE(client_->Read().ok());
    EXPECT_TRUE(client_->CheckDestination().ok());
    bool happened = false;
    return client_->Migrate({}, [&](const Progress&) {
      bool migrating = false;
      With([&] { migrating = Fake().migrating; });
      if (!migrating || happened) return happened ? Pace::kAbort : Pace::kGoOn;
      happened = true;
      happens();
      return Pace::kAbort;
    });
  }

  static LibvirtOptions OptionsOf() {
    LibvirtOptions options;
    options.domain = "vm1";
    options.from = "source:///";
    options.to = "destination:///";
    options.timeout = absl::Seconds(2);
    return options;
  }

  const std::unique_ptr<Hypervisor> client_ = MakeLibvirtClient(OptionsOf());
};

// Its ports must stay at the destination: the guest may come to them yet.
TEST_F(LibvirtClientTest, ACallThatDoesNotEndAndADestinationThatDoesNotAnswerLeaveItOpenWhereTheGuestWillBe) {
  const absl::Status status = Migrate([&] { With([] { Fake().destination.answers = false; }); });
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_EQ(client_->Settle(), Place::kUnknown);
}

TEST_F(LibvirtClientTest, ACallThatDoesNotEndIsHarmlessOnceTheDomainAtTheDestinationHasGone) {
  EXPECT_TRUE(absl::IsDeadlineExceeded(Migrate([] {})));
  EXPECT_EQ(client_->Settle(), Place::kSource);
  With([] { EXPECT_EQ(Fake().destination.state, -1); });
}

TEST_F(LibvirtClientTest, AGuestThatIsHeldIsSentSlowlyAndAsBeforeAfterwards) {
  LibvirtOptions options = OptionsOf();
  options.bandwidth_mib_s = 100;  // of this migration alone
  const auto client = MakeLibvirtClient(options);
  ASSERT_TRUE(client->Read().ok());
  ASSERT_TRUE(client->CheckDestination().ok());
  std::vector<unsigned long> speeds;
  const std::vector<Pace> paces = {Pace::kGoOn, Pace::kHold, Pace::kHold, Pace::kGoOn, Pace::kHold, Pace::kAbort};
  (void)client->Migrate({}, [&](const Progress&) {
    With([&] { speeds.push_back(Fake().speed); });
    if (speeds.size() < paces.size()) return paces[speeds.size() - 1];
    EndCall();
    return Pace::kAbort;
  });
  EXPECT_EQ(speeds, (std::vector<unsigned long>{900, 900, 1, 1, 100, 1}));
  With([] { EXPECT_EQ(Fake().speed, 900u); });
}

// The other host is then asked for nothing: what has failed there is for its own libvirt to remove.
TEST_F(LibvirtClientTest, ACallThatFailedLeavesTheGuestWhereItRuns) {
  const absl::Status status = Migrate([&] {
    With([] { Fake().destination.answers = false; });
    EndCall();
  });
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_EQ(client_->Settle(), Place::kSource);
}

// It may as well be preparing a large guest's memory: the cause is not known.
TEST_F(LibvirtClientTest, ADestinationThatIsSentNothingInTimeIsSaidToPrepareOrToHaveStoppedAnswering) {
  With([] { Fake().aborts = true; });
  ASSERT_TRUE(client_->Read().ok());
  ASSERT_TRUE(client_->CheckDestination().ok());
  const absl::Status status = client_->Migrate({}, [](const Progress&) { return Pace::kGoOn; });
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              testing::StartsWith("nothing was sent within 2s: the destination was still preparing the guest's memory, "
                                  "for which a longer --timeout gives time, or has stopped answering; "));
}

TEST_F(LibvirtClientTest, ASourceWhoseLibvirtWasStartedAnewIsAskedAgain) {
  const absl::Status status = Migrate([&] {
    With([] {
      ++Fake().source.lives;
      Fake().destination.state = -1;
    });
    EndCall();
  });
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(client_->Settle(), Place::kSource);
}

TEST_F(LibvirtClientTest, AGuestThatTheMigrationHasStoppedGoesOnAfterTheDestinationIsClean) {
  const absl::Status status = Migrate([&] {
    With([] {
      ++Fake().source.lives;
      Fake().source.state = VIR_DOMAIN_PAUSED;
      Fake().source.reason = VIR_DOMAIN_PAUSED_MIGRATION;
      Fake().destination.state = -1;
    });
    EndCall();
  });
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(client_->Settle(), Place::kSource);
  With([] { EXPECT_EQ(Fake().source.state, VIR_DOMAIN_RUNNING); });
}

}  // namespace
}  // namespace everport::migration
