#include "tests/migration/fake_libvirt.h"

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <unistd.h>

#include <cstring>
#include <deque>
#include <string>

using everport::migration::FakeHost;
using everport::migration::FakeLibvirt;

struct _virConnect {  // NOLINT(bugprone-reserved-identifier): its name in libvirt.h
  FakeHost* host;
  int life;
};
struct _virDomain {  // NOLINT(bugprone-reserved-identifier)
  virConnect* connection;
};

namespace {

constexpr char kUuid[] = "7a4f8a9e-0000-4000-8000-000000000001";
thread_local int g_error = VIR_ERR_OK;

int Fail(int error) {
  g_error = error;
  return -1;
}
// With the mutex held.
bool Reached(const virConnect* connection) {
  return connection->host->answers && connection->host->lives == connection->life;
}
virDomain* Lookup(virConnect* connection) {
  const std::lock_guard lock(fake_libvirt()->mutex);
  const int error = !Reached(connection)            ? VIR_ERR_INTERNAL_ERROR
                    : connection->host->state == -1 ? VIR_ERR_NO_DOMAIN
                                                    : VIR_ERR_OK;
  if (error == VIR_ERR_OK) return new virDomain{connection};
  Fail(error);
  return nullptr;
}

}  // namespace

extern "C" {

FakeLibvirt* fake_libvirt() {
  static auto* const fake = new FakeLibvirt;
  return fake;
}

virConnect* virConnectOpen(const char* uri) {
  FakeLibvirt& fake = *fake_libvirt();
  const std::lock_guard lock(fake.mutex);
  FakeHost* const host = std::string(uri) == "source:///" ? &fake.source : &fake.destination;
  static auto* const opened = new std::deque<virConnect>;
  if (host->answers) return &opened->emplace_back(virConnect{host, host->lives});
  Fail(VIR_ERR_INTERNAL_ERROR);
  return nullptr;
}
// Domains may refer to it yet: the few there are stay.
int virConnectClose(virConnect*) {
  return 0;
}
int virConnectSetKeepAlive(virConnect*, int, unsigned) {
  return 0;
}
virDomain* virDomainLookupByName(virConnect* connection, const char*) {
  return Lookup(connection);
}
virDomain* virDomainLookupByUUIDString(virConnect* connection, const char*) {
  return Lookup(connection);
}
int virDomainFree(virDomain* domain) {
  delete domain;
  return 0;
}
int virDomainGetUUIDString(virDomain*, char* uuid) {
  std::strcpy(uuid, kUuid);
  return 0;
}
const char* virDomainGetName(virDomain*) {
  return "vm1";
}
char* virDomainGetXMLDesc(virDomain*, unsigned) {
  return ::strdup("<domain><name>vm1</name></domain>");
}
int virDomainIsPersistent(virDomain*) {
  return 0;
}
int virDomainGetState(virDomain* domain, int* state, int* reason, unsigned) {
  const std::lock_guard lock(fake_libvirt()->mutex);
  if (!Reached(domain->connection)) return Fail(VIR_ERR_INTERNAL_ERROR);
  *state = domain->connection->host->state;
  *reason = domain->connection->host->reason;
  return *state == -1 ? Fail(VIR_ERR_NO_DOMAIN) : 0;
}
int virDomainMigrateToURI3(virDomain*, const char*, virTypedParameterPtr, unsigned, unsigned) {
  FakeLibvirt& fake = *fake_libvirt();
  std::unique_lock lock(fake.mutex);
  fake.migrating = true;
  fake.destination.state = VIR_DOMAIN_PAUSED;
  fake.destination.reason = VIR_DOMAIN_PAUSED_MIGRATION;
  fake.changed.notify_all();
  fake.changed.wait(lock, [&] { return !fake.migrating; });
  return fake.moved ? 0 : Fail(VIR_ERR_OPERATION_FAILED);
}
int virDomainGetJobStats(virDomain*, int*, virTypedParameterPtr*, int*, unsigned) {
  return -1;
}
int virDomainAbortJob(virDomain*) {
  FakeLibvirt& fake = *fake_libvirt();
  const std::lock_guard lock(fake.mutex);
  if (!fake.aborts) return Fail(VIR_ERR_OPERATION_INVALID);
  fake.migrating = false;
  fake.changed.notify_all();
  return 0;
}
int virDomainMigrateGetMaxSpeed(virDomain*, unsigned long* speed, unsigned) {
  const std::lock_guard lock(fake_libvirt()->mutex);
  *speed = fake_libvirt()->speed;
  return 0;
}
int virDomainMigrateSetMaxSpeed(virDomain*, unsigned long speed, unsigned) {
  const std::lock_guard lock(fake_libvirt()->mutex);
  fake_libvirt()->speed = speed;
  return 0;
}
int virDomainMigrateStartPostCopy(virDomain*, unsigned) {
  return -1;
}
int virDomainDestroy(virDomain* domain) {
  const std::lock_guard lock(fake_libvirt()->mutex);
  if (!Reached(domain->connection)) return Fail(VIR_ERR_INTERNAL_ERROR);
  domain->connection->host->state = -1;
  return 0;
}
int virDomainResume(virDomain* domain) {
  const std::lock_guard lock(fake_libvirt()->mutex);
  if (!Reached(domain->connection)) return Fail(VIR_ERR_INTERNAL_ERROR);
  domain->connection->host->state = VIR_DOMAIN_RUNNING;
  return 0;
}

int virGetLastErrorCode() {
  return g_error;
}
const char* virGetLastErrorMessage() {
  return "the fake's error";
}
void virSetErrorFunc(void*, virErrorFunc) {}
int virEventRegisterDefaultImpl() {
  return 0;
}
int virEventRunDefaultImpl() {
  ::pause();
  return 0;
}
void virTypedParamsFree(virTypedParameterPtr, int) {}
int virTypedParamsAddString(virTypedParameterPtr*, int*, int*, const char*, const char*) {
  return 0;
}
int virTypedParamsAddULLong(virTypedParameterPtr*, int*, int*, const char*, unsigned long long) {
  return 0;
}
int virTypedParamsGetULLong(virTypedParameterPtr, int, const char*, unsigned long long*) {
  return 0;
}
// The watch's.
int virConnectListAllDomains(virConnect*, virDomain***, unsigned) {
  return -1;
}
int virConnectDomainEventRegisterAny(virConnect*, virDomain*, int, virConnectDomainEventGenericCallback, void*,
                                     virFreeCallback) {
  return -1;
}
int virConnectDomainEventDeregisterAny(virConnect*, int) {
  return -1;
}
int virConnectRegisterCloseCallback(virConnect*, virConnectCloseFunc, void*, virFreeCallback) {
  return -1;
}
int virConnectUnregisterCloseCallback(virConnect*, virConnectCloseFunc) {
  return -1;
}
}
