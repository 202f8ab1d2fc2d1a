import * as native from '#binding'
import type { DeviceInfo } from './info.js'
import { devicesOfServers } from './remote/info-from-server.js'

/** All ublk devices of this machine that the caller may see, by id. */
export async function allDevices(): Promise<DeviceInfo[]> {
  return await native.listDevices().catch(devicesOfServers)
}
