// Makes vectors.json with the vendor's own signer (the package ali-oss, written against 6.23.0):
//   npm install ali-oss && node make.mjs > vectors.json
// Nothing in it depends on the time or on chance: it makes the same file each time.

import { createHash } from 'node:crypto';
import OSS from 'ali-oss';

const accessKeyId = 'welovemaxim';
const accessKeySecret = 'upload-key-of-the-tests-0123456789';
const bucket = 'welovemaxim';
const client = new OSS({ accessKeyId, accessKeySecret, bucket, endpoint: 'http://localhost' });

const LATER = '2099-12-31T23:59:59.000Z';
const DAY = '2026-11-25';

/** A version-7 UUID of the day, its random bits taken from the name. */
function uuid(name, hour) {
  const time = BigInt(Date.parse(`${DAY}T${String(hour).padStart(2, '0')}:00:00.000Z`));
  const bytes = createHash('sha256').update(name).digest().subarray(0, 16);
  bytes.writeUIntBE(Number(time), 0, 6);
  bytes[6] = (bytes[6] & 0x0f) | 0x70;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

const cases = [];

/**
 * One case. `conditions` makes the policy's from the key, `fields` the form's other fields; `more` are members
 * of the policy beside them. `lower` names the field `signature` as the vendor's clients do. `free` names
 * fields that no condition binds: changed, they change nothing.
 */
function add(name, given) {
  const { expiration = LATER, conditions, more = {}, fields = () => ({}), free = [], lower = false, expect } = given;
  const key = `chatfile.${DAY}.${uuid(name, cases.length + 1)}`;
  const signed = client.calculatePostSignature({ expiration, conditions: conditions(key), ...more });
  const { Signature, ...rest } = signed;
  cases.push({
    name,
    bucket,
    fields: { ...rest, ...(lower ? { signature: Signature } : { Signature }), key, ...fields(key) },
    free,
    expect,
  });
}

add('conditions as objects', {
  conditions: (key) => [{ bucket }, { key }],
  expect: { success: 200 },
});
add('eq and content-length-range, as this service issues them', {
  conditions: (key) => [
    ['eq', '$bucket', bucket],
    ['eq', '$key', key],
    ['content-length-range', 1, 10485760],
  ],
  more: { owner: 'alice', recipient: 'bob' },
  fields: () => ({ callback: '' }),
  free: ['callback'],
  lower: true,
  expect: { success: 200, bytes: [1, 10485760], owner: 'alice', recipient: 'bob' },
});
add('starts-with, one of them with an empty prefix', {
  expiration: '2099-12-31T23:59:59Z',
  conditions: () => [['starts-with', '$key', `chatfile.${DAY}.`], ['starts-with', '$x:note', '']],
  fields: () => ({ 'x:note': 'anything' }),
  free: ['x:note'],
  expect: { success: 200 },
});
add('in and not-in, two ranges, names in another case', {
  conditions: (key) => [
    ['eq', '$Key', key],
    ['in', '$Content-Type', ['image/png', 'image/jpeg']],
    ['not-in', '$cache-control', ['no-cache']],
    ['content-length-range', 0, 1000],
    ['content-length-range', 10, 5000],
  ],
  fields: () => ({ 'content-type': 'image/jpeg', 'Cache-Control': 'no-store' }),
  free: ['Cache-Control'],
  expect: { success: 200, bytes: [10, 1000] },
});
add('success_action_status 201', {
  conditions: (key) => [{ bucket }, ['eq', '$key', key], ['eq', '$success_action_status', '201']],
  fields: () => ({ success_action_status: '201' }),
  expect: { success: 201 },
});
add('success_action_status 204, as an object', {
  conditions: (key) => [{ key }, { success_action_status: '204' }],
  fields: () => ({ success_action_status: '204' }),
  lower: true,
  expect: { success: 204 },
});
add('success_action_status 201 that no condition names', {
  conditions: (key) => [{ key }],
  fields: () => ({ success_action_status: '201' }),
  free: ['success_action_status'],
  expect: { success: 200 },
});
add('values that are not ASCII', {
  conditions: (key) => [{ key }, ['eq', '$x:title', '蓝莺 – "été" 🎉'], ['starts-with', '$x:title', '蓝']],
  fields: () => ({ 'x:title': '蓝莺 – "été" 🎉' }),
  expect: { success: 200 },
});
add('expired in 2001', {
  expiration: '2001-01-01T00:00:00.000Z',
  conditions: (key) => [{ key }],
  expect: { error: 'AccessDenied' },
});

console.log(JSON.stringify({ accessKeyId, accessKeySecret, cases }, null, 2));
